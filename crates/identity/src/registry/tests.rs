use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::authority::Authority;
use crate::identity::{Identity, Kind};
use crate::request::{NewKey, PublicKey};
use crate::secret::{Secret, TokenId};
use crate::token::ClientToken;

const NOW: u64 = 1_800_000_000;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn id(number: u8) -> TokenId {
    TokenId::from_bytes([number; 8])
}

fn secret(number: u8) -> Secret {
    Secret::from_bytes([number; 32])
}

fn join_token(number: u8) -> JoinToken {
    JoinToken { id: id(number), secret: secret(number), authority: Fingerprint::of_spki(b"ca") }
}

fn client_token(number: u8) -> ClientToken {
    ClientToken { id: id(number), secret: secret(number) }
}

fn key(number: u8) -> Fingerprint {
    Fingerprint::of_spki(&[number])
}

/// As a CA would sign it; the registry looks at no signature.
fn issued(worker: &str, number: u8, key: Fingerprint) -> Issued {
    let kind = Kind::Worker { enrolment: id(number) };
    let identity = Identity {
        kind,
        name: name(worker),
        serial: "40".to_owned(),
        not_before: NOW,
        not_after: NOW + 86_400,
    };
    Issued { identity, key, certificate: vec![number] }
}

fn create_join(worker: &str, number: u8) -> Request {
    let hash = secret(number).hash();
    Request::CreateJoinToken {
        id: id(number),
        hash,
        name: name(worker),
        systems: vec!["x86_64-linux".to_owned()],
        features: vec![],
        ttl_s: 0,
    }
}

fn create_client(client: &str, number: u8, role: Role) -> Request {
    let hash = secret(number).hash();
    Request::CreateClientToken { id: id(number), hash, name: name(client), role, ttl_s: 0 }
}

fn redeem(worker: &str, number: u8, key: Fingerprint) -> Request {
    Request::RedeemJoinToken { token: join_token(number), issued: issued(worker, number, key) }
}

fn revoke(worker: &str) -> Request {
    Request::RevokeWorker { name: name(worker), reason: "stolen".to_owned() }
}

/// A registry where `b1` came with token 1 and key 1.
fn enrolled() -> (Registry, Issued) {
    let mut registry = Registry::default();
    registry.decide(NOW, create_join("b1", 1)).expect("the token is made");
    let decision = registry.decide(NOW, redeem("b1", 1, key(1))).expect("the token is good");
    let Answer::Certificate(issued) = decision.answer else { panic!("no certificate: {decision:?}") };
    (registry, issued)
}

#[test]
fn a_join_token_makes_one_worker_with_its_grants() {
    let (registry, issued) = enrolled();
    registry.admit(NOW, &issued.identity).expect("it has just come");
    let worker = registry.worker(&name("b1")).expect("it is known");
    assert_eq!(worker.systems, ["x86_64-linux"]);
    assert_eq!(worker.enrolment, Some(id(1)));
    assert_eq!(registry.waiting_joins(NOW).count(), 0);
}

#[test]
fn the_same_key_gets_the_same_certificate_again_and_nothing_is_recorded() {
    let (mut registry, first) = enrolled();
    let mut other = issued("b1", 1, key(1));
    other.certificate = vec![99];
    let again = Request::RedeemJoinToken { token: join_token(1), issued: other };
    let decision = registry.decide(NOW + 60, again).expect("the key is the same");
    assert_eq!(decision.answer, Answer::Certificate(first.clone()));
    assert!(decision.record.is_none());
    assert_eq!(registry.join(NOW + 60, &join_token(1), &key(1)), Ok(Join::Issued(first)));
}

#[test]
fn another_key_gets_nothing_for_a_used_token() {
    let (mut registry, first) = enrolled();
    let before = registry.condense(NOW).len();
    assert_eq!(registry.join(NOW, &join_token(1), &key(2)), Err(RegistryError::TokenUsed(name("b1"))));
    let refused = registry.decide(NOW, redeem("b1", 1, key(2)));
    assert_eq!(refused.err(), Some(RegistryError::TokenUsed(name("b1"))));
    assert_eq!(registry.condense(NOW).len(), before);
    registry.admit(NOW, &first.identity).expect("the first one is not touched");
}

#[test]
fn a_wrong_secret_is_told_nothing_and_does_not_use_the_token_up() {
    let mut registry = Registry::default();
    registry.decide(NOW, create_join("b1", 1)).expect("the token is made");
    let guessed = JoinToken { secret: secret(9), ..join_token(1) };
    let unknown = JoinToken { id: id(9), ..join_token(1) };
    for token in [guessed, unknown] {
        assert_eq!(registry.join(NOW, &token, &key(1)), Err(RegistryError::TokenUnknown));
    }
    registry.decide(NOW, redeem("b1", 1, key(1))).expect("the token is still good");
}

#[test]
fn a_token_ends_with_its_last_second() {
    let mut registry = Registry::default();
    registry.decide(NOW, create_join("b1", 1)).expect("the token is made");
    let last = NOW + bound::JOIN_TTL_S - 1;
    registry.join(last, &join_token(1), &key(1)).expect("there is a second left");
    assert_eq!(registry.join(last + 1, &join_token(1), &key(1)), Err(RegistryError::TokenUnknown));
    registry.decide(last + 1, create_join("b2", 2)).expect("the token is made");
    assert_eq!(registry.joins.len(), 1, "the expired one is swept away");
    let too_long = Request::CreateClientToken {
        id: id(3),
        hash: secret(3).hash(),
        name: name("c"),
        role: Role::Read,
        ttl_s: bound::MAX_CLIENT_TTL_S + 1,
    };
    let refused = registry.decide(NOW, too_long).err();
    assert_eq!(refused, Some(RegistryError::TtlTooLong(bound::MAX_CLIENT_TTL_S)));
}

#[test]
fn a_certificate_for_somebody_else_is_not_registered() {
    let mut registry = Registry::default();
    registry.decide(NOW, create_join("b1", 1)).expect("the token is made");
    for wrong in [issued("b2", 1, key(1)), issued("b1", 2, key(1))] {
        let refused = registry.decide(NOW, Request::RedeemJoinToken { token: join_token(1), issued: wrong });
        assert_eq!(refused.err(), Some(RegistryError::WrongCertificate));
    }
}

#[test]
fn a_second_token_replaces_the_worker_only_when_it_is_used() {
    let (mut registry, old) = enrolled();
    registry.decide(NOW, create_join("b1", 2)).expect("a machine may be replaced");
    registry.admit(NOW, &old.identity).expect("nobody has come yet");
    registry.decide(NOW, redeem("b1", 2, key(2))).expect("the new machine comes");
    let new = issued("b1", 2, key(2));
    registry.admit(NOW, &new.identity).expect("the new machine is in");
    assert_eq!(registry.admit(NOW, &old.identity), Err(Refused::Superseded(name("b1"))));
    assert_eq!(registry.renewal(NOW, &old.identity), Err(Refused::Superseded(name("b1"))));
    let again = registry.decide(NOW, redeem("b1", 1, key(1)));
    assert_eq!(again.err(), Some(RegistryError::Superseded(name("b1"))), "its token gives nothing any more");
}

#[test]
fn a_revoked_worker_never_comes_back_under_its_name() {
    let (mut registry, issued) = enrolled();
    registry.decide(NOW, create_join("b1", 2)).expect("the token is made");
    let decision = registry.decide(NOW + 1, revoke("b1")).expect("it is known");
    assert!(decision.record.is_some());
    assert_eq!(registry.admit(NOW + 1, &issued.identity), Err(Refused::Revoked(name("b1"))));
    assert_eq!(registry.renewal(NOW + 1, &issued.identity), Err(Refused::Revoked(name("b1"))));
    for number in [1, 2] {
        let refused = registry.join(NOW + 1, &join_token(number), &key(number));
        assert_eq!(refused, Err(RegistryError::TokenUnknown), "tokens of the name are gone");
    }
    let refused = registry.decide(NOW + 1, create_join("b1", 3)).err();
    assert_eq!(refused, Some(RegistryError::Revoked(name("b1"))));
    let again = registry.decide(NOW + 2, revoke("b1")).expect("asking twice does no harm");
    assert!(again.record.is_none());
    assert_eq!(registry.decide(NOW, revoke("b9")).err(), Some(RegistryError::UnknownWorker(name("b9"))));
}

#[test]
fn a_name_can_be_revoked_before_its_machine_comes() {
    let mut registry = Registry::default();
    registry.decide(NOW, create_join("b1", 1)).expect("the token is made");
    registry.decide(NOW, revoke("b1")).expect("a token for it is out");
    assert_eq!(registry.join(NOW, &join_token(1), &key(1)), Err(RegistryError::TokenUnknown));
    let stranger = issued("b1", 1, key(1));
    assert_eq!(registry.admit(NOW, &stranger.identity), Err(Refused::Revoked(name("b1"))));
}

#[test]
fn a_genuine_certificate_of_an_unknown_worker_is_refused() {
    let registry = Registry::default();
    let stranger = issued("b1", 1, key(1));
    assert_eq!(registry.admit(NOW, &stranger.identity), Err(Refused::NotEnrolled(name("b1"))));
}

#[test]
fn a_certificate_that_ran_out_while_its_connection_was_open_is_refused() {
    let (registry, issued) = enrolled();
    let last = issued.identity.not_after;
    registry.admit(last, &issued.identity).expect("its last second counts");
    assert_eq!(registry.admit(last + 1, &issued.identity), Err(Refused::Expired(name("b1"))));
}

#[test]
fn renewal_keeps_the_enrolment_and_is_for_workers_only() {
    let (registry, issued) = enrolled();
    let grant = registry.renewal(NOW, &issued.identity).expect("it is in");
    assert_eq!(grant, Grant { name: name("b1"), enrolment: id(1) });
    let client = Identity { kind: Kind::Client { role: Role::Admin }, ..issued.identity };
    registry.admit(NOW, &client).expect("clients need no entry");
    assert_eq!(registry.renewal(NOW, &client), Err(Refused::NotAWorker(name("b1"))));
}

#[test]
fn client_tokens_count_until_they_expire_or_their_name_is_revoked() {
    let mut registry = Registry::default();
    registry.decide(NOW, create_client("ci", 1, Role::Submit)).expect("the token is made");
    registry
        .decide(NOW, create_client("ci", 2, Role::Read))
        .expect("tokens of a name may follow one another");
    let client = registry.client(NOW, &client_token(1)).expect("the token is good");
    assert_eq!((client.name.as_str(), client.role), ("ci", Role::Submit));
    let guessed = ClientToken { secret: secret(2), ..client_token(1) };
    assert_eq!(registry.client(NOW, &guessed), Err(Refused::TokenUnknown));
    assert_eq!(registry.client(NOW + bound::CLIENT_TTL_S, &client_token(1)), Err(Refused::TokenUnknown));
    assert_eq!(registry.clients(NOW).len(), 2);

    registry.decide(NOW, Request::RevokeClient { name: name("ci") }).expect("any name can be revoked");
    for number in [1, 2] {
        assert_eq!(registry.client(NOW, &client_token(number)), Err(Refused::TokenUnknown));
    }
    let refused = registry.decide(NOW, create_client("ci", 3, Role::Read)).err();
    assert_eq!(refused, Some(RegistryError::Revoked(name("ci"))));
    let certificate = Identity {
        kind: Kind::Client { role: Role::Read },
        name: name("ci"),
        ..issued("x", 1, key(1)).identity
    };
    assert_eq!(registry.admit(NOW, &certificate), Err(Refused::Revoked(name("ci"))));
    let worker_of_that_name = issued("ci", 4, key(4));
    assert_eq!(
        registry.admit(NOW, &worker_of_that_name.identity),
        Err(Refused::NotEnrolled(name("ci"))),
        "workers and clients share no names"
    );
    assert!(registry.clients(NOW).iter().all(|client| client.revoked));
}

#[test]
fn what_is_granted_is_bounded_and_plain() {
    let mut registry = Registry::default();
    let long = "a".repeat(bound::GRANT_LEN + 1);
    let bad =
        [vec![String::new()], vec![long], vec!["a b".to_owned()], vec!["a".to_owned(); bound::GRANTS + 1]];
    for words in bad {
        let Request::CreateJoinToken { id, hash, name, systems, ttl_s, .. } = create_join("b1", 1) else {
            panic!("create_join makes a join token")
        };
        let request = Request::CreateJoinToken { id, hash, name, systems, features: words, ttl_s };
        assert_eq!(registry.decide(NOW, request).err(), Some(RegistryError::BadGrant));
    }
    registry.decide(NOW, create_join("b1", 1)).expect("these are well");
    assert_eq!(registry.decide(NOW, create_join("b2", 1)).err(), Some(RegistryError::NumberTaken));
    let reason = "ä".repeat(bound::REASON_LEN);
    registry.decide(NOW, Request::RevokeWorker { name: name("b1"), reason }).expect("it is known");
    let revoked =
        registry.worker(&name("b1")).and_then(|worker| worker.revoked.clone()).expect("it is revoked");
    assert_eq!(revoked.reason.len(), bound::REASON_LEN);
}

#[test]
fn a_full_registry_refuses_and_has_room_again_when_tokens_expire() {
    let mut registry = Registry::default();
    let request = |number: u64| Request::CreateJoinToken {
        id: TokenId::from_bytes(number.to_be_bytes()),
        hash: secret(1).hash(),
        name: name("b1"),
        systems: vec![],
        features: vec![],
        ttl_s: 60,
    };
    for number in 0..bound::JOIN_TOKENS as u64 {
        registry.decide(NOW, request(number)).expect("there is room");
    }
    assert_eq!(registry.decide(NOW, request(9999)).err(), Some(RegistryError::Full("join tokens")));
    registry.decide(NOW + 60, request(9999)).expect("the others have expired");
    assert_eq!(registry.joins.len(), 1);
}

#[test]
fn records_hold_no_secrets() {
    let mut registry = Registry::default();
    let join = registry.decide(NOW, create_join("b1", 1)).expect("the token is made").record;
    let client = registry.decide(NOW, create_client("ci", 2, Role::Read)).expect("the token is made").record;
    let text = serde_json::to_string(&(join, client)).expect("records are JSON");
    for number in [1, 2] {
        assert!(!text.contains(&secret(number).to_text()));
    }
    assert!(!format!("{registry:?}").contains(&secret(1).to_text()));
}

/// What the coordinator does for one machine: it asks, has it signed, registers, and shows what that says. All have
/// asked before the first registers.
async fn enrol(
    registry: &Mutex<Registry>,
    authority: &Authority,
    request: &[u8],
    all_asked: &tokio::sync::Barrier,
) -> Result<Vec<u8>, RegistryError> {
    let key = PublicKey::from_request(request).expect("the request is good");
    let asked = registry.lock().expect("nobody panicked").join(NOW, &join_token(1), &key.fingerprint);
    let Ok(Join::Sign(grant)) = asked else { panic!("nobody has come yet: {asked:?}") };
    let issued = authority.sign_worker(NOW, &grant, &key).expect("it signs");
    all_asked.wait().await;
    let request = Request::RedeemJoinToken { token: join_token(1), issued };
    match registry.lock().expect("nobody panicked").decide(NOW, request)?.answer {
        Answer::Certificate(issued) => Ok(issued.certificate),
        other => panic!("no certificate but {other:?}"),
    }
}

async fn enrol_in_parallel(keys: usize, uses: usize) -> Vec<Result<Vec<u8>, RegistryError>> {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Arc::new(Authority::open(directory.path(), NOW).expect("a CA"));
    let registry = Arc::new(Mutex::new(Registry::default()));
    registry.lock().expect("nobody panicked").decide(NOW, create_join("b1", 1)).expect("the token is made");
    let requests: Vec<Arc<Vec<u8>>> = (0..keys).map(|_| Arc::new(NewKey::generate().request())).collect();
    let all_asked = Arc::new(tokio::sync::Barrier::new(uses));
    let tasks: Vec<_> = (0..uses)
        .map(|number| {
            let request = requests[number % keys].clone();
            let (registry, authority, all_asked) = (registry.clone(), authority.clone(), all_asked.clone());
            tokio::spawn(async move { enrol(&registry, &authority, &request, &all_asked).await })
        })
        .collect();
    let mut results = vec![];
    for task in tasks {
        results.push(task.await.expect("no task panics"));
    }
    results
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_parallel_uses_by_a_thousand_keys_give_one_certificate() {
    let results = enrol_in_parallel(1000, 1000).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let refused = Err(RegistryError::TokenUsed(name("b1")));
    assert_eq!(results.iter().filter(|result| **result == refused).count(), 999);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_parallel_uses_by_one_key_give_one_certificate() {
    let results = enrol_in_parallel(1, 1000).await;
    let certificates: BTreeSet<Vec<u8>> =
        results.into_iter().map(|result| result.expect("the key is the same")).collect();
    assert_eq!(certificates.len(), 1);
}

#[test]
fn a_crash_before_the_record_is_durable_leaves_the_token_to_whoever_comes_again() {
    let mut durable = Registry::default();
    durable.decide(NOW, create_join("b1", 1)).expect("the token is made");
    let mut lost = durable.clone();
    lost.decide(NOW, redeem("b1", 1, key(1))).expect("the token is good");
    drop(lost);
    let decision = durable.decide(NOW, redeem("b1", 1, key(2))).expect("nobody was shown a certificate");
    let again =
        Registry::restore([durable.condense(NOW), vec![decision.record.expect("it changed")]].concat());
    assert_eq!(again.join(NOW, &join_token(1), &key(1)), Err(RegistryError::TokenUsed(name("b1"))));
}

fn any_request() -> impl Strategy<Value = Request> {
    let worker = prop::sample::select(vec!["b1", "b2", "b3"]);
    let numbers = (1u8..6, 1u8..4);
    (0..5, worker, numbers).prop_map(|(kind, worker, (number, key_number))| match kind {
        0 => create_join(worker, number),
        1 => redeem(worker, number, key(key_number)),
        2 => revoke(worker),
        3 => create_client(worker, number, Role::Submit),
        _ => Request::RevokeClient { name: name(worker) },
    })
}

proptest! {
    #[test]
    fn folding_the_records_or_their_condensate_gives_the_same_registry(
        requests in prop::collection::vec((0u64..1800, any_request()), 0..40),
    ) {
        let (mut live, mut records, mut now) = (Registry::default(), vec![], NOW);
        let mut certificates: BTreeMap<TokenId, Fingerprint> = BTreeMap::new();
        for (later, request) in requests {
            now += later;
            let token = match &request {
                Request::RedeemJoinToken { token, .. } => Some(token.id),
                Request::CreateJoinToken { id, .. } => { certificates.remove(id); None }
                _ => None,
            };
            let Ok(decision) = live.decide(now, request) else { continue };
            if let (Some(token), Answer::Certificate(issued)) = (token, &decision.answer) {
                prop_assert_eq!(*certificates.entry(token).or_insert(issued.key), issued.key);
            }
            records.extend(decision.record);
        }
        let text = serde_json::to_vec(&records).expect("records are JSON");
        let read: Vec<RegistryRecord> = serde_json::from_slice(&text).expect("they were written here");
        prop_assert_eq!(format!("{:?}", Registry::restore(read)), format!("{live:?}"));
        let condensed = Registry::restore(live.condense(now));
        live.sweep(now);
        prop_assert_eq!(format!("{condensed:?}"), format!("{live:?}"));
    }
}

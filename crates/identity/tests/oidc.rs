//! Tokens of CI jobs, good and bad, and the fetching of their issuer's keys over real TLS.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fleet_identity::oidc::{
    Issuer, IssuerConfig, IssuerError, KeySet, KeySetError, OidcError, SourceError, Verifier, VerifyError,
    bound, verify,
};
use fleet_identity::testing::{HttpsAnswer, SignedWith, TestIssuer};
use fleet_identity::{Authority, Client, Role, unix_now};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

const FORGE: &str = "https://forge.example.org";
const NOW: u64 = 1_800_000_000;

const RULES: &str = r#"
    name = "forge"
    issuer = "https://forge.example.org"
    audiences = ["fleet"]
    jwks_file = "/nowhere"

    [[rules]]
    role = "read"
    claims = { repository = ["acme/*"] }

    [[rules]]
    role = "submit"
    claims = { repository = ["acme/site", "acme/fleet"], ref = ["refs/heads/main", "refs/heads/release/*"] }
"#;

fn parse(text: &str) -> IssuerConfig {
    toml::from_str(text).expect("the configuration is well-formed")
}

struct Forge {
    issuer: TestIssuer,
    config: Issuer,
}

impl Forge {
    fn new() -> Self {
        Self {
            issuer: TestIssuer::new(FORGE),
            config: Issuer::new(parse(RULES)).expect("the rules are well"),
        }
    }

    fn keys(&self) -> KeySet {
        KeySet::parse(self.issuer.jwks().to_string().as_bytes()).expect("keys")
    }

    fn claims(&self) -> Value {
        self.issuer.claims(NOW, "fleet", "acme/site", "refs/heads/main")
    }

    /// What becomes of a job's claims with one of them changed; null takes it away.
    fn with(&self, claim: &str, value: Value) -> Result<Client, OidcError> {
        let mut claims = self.claims();
        let map = claims.as_object_mut().expect("claims are an object");
        if value.is_null() {
            map.remove(claim);
        } else {
            map.insert(claim.to_owned(), value);
        }
        self.verify(&self.issuer.token(&claims, SignedWith::Ec))
    }

    fn verify(&self, token: &str) -> Result<Client, OidcError> {
        verify(token, &self.config, &self.keys(), NOW)
    }

    fn role(&self, repository: &str, reference: &str) -> Option<Role> {
        let claims = self.issuer.claims(NOW, "fleet", repository, reference);
        self.verify(&self.issuer.token(&claims, SignedWith::Rsa)).ok().map(|client| client.role)
    }
}

#[test]
fn a_job_gets_the_highest_role_that_its_rules_give() {
    let forge = Forge::new();
    for with in [SignedWith::Rsa, SignedWith::Ec] {
        let client = forge.verify(&forge.issuer.token(&forge.claims(), with)).expect("the token is good");
        assert_eq!(client.name, "forge/acme/site");
        assert_eq!(client.role, Role::Submit);
        assert_eq!(client.expires, NOW + 300 + bound::LEEWAY_S);
    }
    assert_eq!(forge.role("acme/fleet", "refs/heads/release/26.11"), Some(Role::Submit));
    assert_eq!(forge.role("acme/site", "refs/pull/7/merge"), Some(Role::Read));
    assert_eq!(forge.role("acme/other", "refs/heads/main"), Some(Role::Read));
}

#[test]
fn names_that_only_look_like_those_of_a_rule_get_nothing() {
    let forge = Forge::new();
    let strangers = [
        "evil/site",
        "acme-evil/site",
        "acme/site/evil",
        "evil/acme/site",
        "ACME/site",
        "acme",
        "acme/",
        " acme/site",
    ];
    for repository in strangers {
        let role = forge.role(repository, "refs/heads/main");
        assert!(
            role.is_none_or(|role| role == Role::Read && repository == "acme/"),
            "{repository}: {role:?}"
        );
    }
    for reference in [
        "refs/heads/main2",
        "refs/heads/main/x",
        "main",
        "refs/tags/refs/heads/main",
        "refs/heads/release/a/b",
    ] {
        assert_eq!(forge.role("acme/site", reference), Some(Role::Read), "{reference}");
    }
    let refused = forge.with("repository", json!("evil/site\n\u{1b}[2J"));
    let subject = "evil/site__[2J".replace('[', "_");
    assert_eq!(refused, Err(OidcError::NoRule { issuer: "forge".to_owned(), subject }));
    assert!(forge.with("repository", json!(["acme/site"])).is_err(), "a list is not a name");
    assert!(forge.with("repository", Value::Null).is_err(), "a claim that is missing matches nothing");
}

#[test]
fn every_claim_that_bounds_a_token_is_checked() {
    let forge = Forge::new();
    let leeway = bound::LEEWAY_S;
    let cases = [
        ("iss", json!("https://evil.example.org"), OidcError::UnknownIssuer),
        ("iss", json!("https://forge.example.org/"), OidcError::UnknownIssuer),
        ("iss", Value::Null, OidcError::UnknownIssuer),
        ("aud", json!("other"), OidcError::Audience),
        ("aud", json!(["other", "fleet2"]), OidcError::Audience),
        ("aud", json!({ "fleet": "fleet" }), OidcError::Audience),
        ("aud", Value::Null, OidcError::Audience),
        ("exp", json!(NOW - leeway), OidcError::Expired),
        ("exp", json!(0), OidcError::Expired),
        ("exp", Value::Null, OidcError::Claim("exp")),
        ("exp", json!("9999999999"), OidcError::Claim("exp")),
        ("exp", json!(-1), OidcError::Claim("exp")),
        ("exp", json!(1e300), OidcError::Claim("exp")),
        ("nbf", json!(NOW + leeway + 1), OidcError::NotYetValid),
        ("nbf", json!("soon"), OidcError::Claim("nbf")),
        ("iat", json!(NOW + leeway + 1), OidcError::NotYetValid),
        ("iat", Value::Null, OidcError::Claim("iat")),
    ];
    for (claim, value, expected) in cases {
        assert_eq!(forge.with(claim, value.clone()), Err(expected), "{claim}: {value}");
    }
    for (claim, value) in [
        ("aud", json!(["other", "fleet"])),
        ("exp", json!(NOW - leeway + 1)),
        ("exp", json!(1_800_000_100.5)),
        ("nbf", json!(NOW + leeway)),
        ("nbf", Value::Null),
    ] {
        assert!(forge.with(claim, value.clone()).is_ok(), "{claim}: {value}");
    }
}

#[test]
fn a_token_that_says_it_lives_for_years_counts_for_minutes() {
    let forge = Forge::new();
    let mut claims = forge.claims();
    claims["exp"] = json!(NOW + 10 * 365 * 24 * 3600);
    claims["iat"] = json!(NOW - bound::MAX_AGE_S - bound::LEEWAY_S);
    claims["nbf"] = claims["iat"].clone();
    let token = forge.issuer.token(&claims, SignedWith::Ec);
    assert_eq!(forge.verify(&token), Err(OidcError::Expired));
    let client = verify(&token, &forge.config, &forge.keys(), NOW - 1).expect("it is young enough");
    assert_eq!(client.expires, NOW);
}

#[test]
fn the_token_does_not_choose_how_it_is_verified() {
    let forge = Forge::new();
    let claims = forge.claims();
    let header = |header: Value, with| forge.verify(&forge.issuer.token_with_header(&header, &claims, with));
    for alg in ["none", "None", "NONE", "HS256", "HS512", "RS512", "ES384", "PS256", "EdDSA", "", "rs256"] {
        let told = header(json!({ "alg": alg, "kid": "rsa" }), SignedWith::Rsa);
        assert_eq!(told, Err(OidcError::Algorithm), "{alg}");
    }
    // A key of the other kind under the right id, and the other way round.
    assert_eq!(header(json!({ "alg": "ES256", "kid": "rsa" }), SignedWith::Rsa), Err(OidcError::UnknownKey));
    assert_eq!(header(json!({ "alg": "RS256", "kid": "ec1" }), SignedWith::Ec), Err(OidcError::UnknownKey));
    assert_eq!(
        header(json!({ "alg": "RS256", "kid": "other" }), SignedWith::Rsa),
        Err(OidcError::UnknownKey)
    );
    assert_eq!(header(json!({ "alg": "RS256", "kid": "rsa" }), SignedWith::Ec), Err(OidcError::Signature));
    let critical = json!({ "alg": "RS256", "kid": "rsa", "crit": ["exp"] });
    assert_eq!(header(critical, SignedWith::Rsa), Err(OidcError::Critical));
    let own_key = json!({ "alg": "ES256", "kid": "ec1", "jwk": TestIssuer::new(FORGE).jwks()["keys"][1] });
    let stranger = TestIssuer::new(FORGE).token_with_header(&own_key, &claims, SignedWith::Ec);
    assert_eq!(forge.verify(&stranger), Err(OidcError::Signature), "a key in the header counts for nothing");
    header(json!({ "alg": "RS256" }), SignedWith::Rsa).expect("it is the only RSA key");
}

#[test]
fn the_public_key_is_no_shared_secret() {
    let forge = Forge::new();
    let jwks = forge.issuer.jwks();
    let modulus = jwks["keys"][0]["n"].as_str().expect("a modulus");
    let secrets = [modulus.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(modulus).expect("base64")];
    for secret in secrets {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "kid": "rsa" })), part(&forge.claims()));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
        let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes()));
        assert_eq!(forge.verify(&format!("{signed}.{signature}")), Err(OidcError::Algorithm));
    }
}

#[test]
fn a_token_altered_or_cut_anywhere_is_refused() {
    let forge = Forge::new();
    let token = forge.issuer.token(&forge.claims(), SignedWith::Ec);
    forge.verify(&token).expect("it is good as it is");
    for at in 0..token.len() {
        assert!(forge.verify(&token[..at]).is_err(), "cut at {at}");
        let mut altered = token.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).expect("it is ASCII");
        assert!(forge.verify(&altered).is_err(), "altered at {at}");
    }
    for odd in
        [format!("{token}."), format!(".{token}"), format!("{token}="), format!("{token}\n"), "..".to_owned()]
    {
        assert!(forge.verify(&odd).is_err(), "{odd}");
    }
    let large = "a".repeat(bound::TOKEN_LEN + 1);
    assert_eq!(forge.verify(&large), Err(OidcError::TooLarge));
}

#[test]
fn key_sets_are_bounded_and_what_cannot_be_used_is_passed_over() {
    let huge = format!(r#"{{"keys":[],"x":"{}"}}"#, "a".repeat(10_000_000));
    assert_eq!(KeySet::parse(huge.as_bytes()), Err(KeySetError::TooLarge));
    let many = json!({ "keys": vec![json!({ "kty": "oct" }); bound::KEYS + 1] });
    assert_eq!(KeySet::parse(many.to_string().as_bytes()), Err(KeySetError::TooMany));
    for none in
        [json!({ "keys": [] }), json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "alg": "HS256" }] })]
    {
        assert_eq!(KeySet::parse(none.to_string().as_bytes()), Err(KeySetError::NoKey));
    }
    for malformed in ["", "[]", "{}", "null", r#"{"keys":{}}"#, r#"{"keys":[{"kid":"a"}]}"#] {
        assert_eq!(KeySet::parse(malformed.as_bytes()), Err(KeySetError::Malformed), "{malformed}");
    }
    let deep = format!(r#"{{"keys":{}"#, "[".repeat(100_000));
    assert_eq!(KeySet::parse(deep.as_bytes()), Err(KeySetError::Malformed));

    let forge = Forge::new();
    let mut jwks = forge.issuer.jwks();
    for (field, value) in
        [("use", json!("enc")), ("alg", json!("ES384")), ("crv", json!("P-384")), ("x", json!("AA"))]
    {
        let mut changed = jwks["keys"][1].clone();
        changed[field] = value;
        let only_rsa = json!({ "keys": [jwks["keys"][0], changed] });
        let keys = KeySet::parse(only_rsa.to_string().as_bytes()).expect("the RSA key is left");
        let token = forge.issuer.token(&forge.claims(), SignedWith::Ec);
        assert_eq!(verify(&token, &forge.config, &keys, NOW), Err(OidcError::UnknownKey), "{field}");
    }
    // A weak key signs nothing, whatever it is called.
    jwks["keys"][0]["n"] = json!(URL_SAFE_NO_PAD.encode([0xc5; 64]));
    let weak = KeySet::parse(jwks.to_string().as_bytes()).expect("it can be read");
    let token = forge.issuer.token(&forge.claims(), SignedWith::Rsa);
    assert_eq!(verify(&token, &forge.config, &weak, NOW), Err(OidcError::Signature));
}

#[test]
fn rules_that_would_let_strangers_in_are_refused() {
    let refused = |from: &str, to: &str| {
        assert!(RULES.contains(from), "{from}");
        Issuer::new(parse(&RULES.replace(from, to))).err()
    };
    for owner in ["*/site", "*", "**", "acme*/site", "ac**", "/site", "**/acme/site"] {
        let told = refused(r#"{ repository = ["acme/*"] }"#, &format!(r#"{{ repository = ["{owner}"] }}"#));
        assert!(matches!(told, Some(IssuerError::Owner { .. })), "{owner}: {told:?}");
    }
    for claims in [r#"{ ref = ["refs/heads/main"] }"#, "{}", r#"{ repository = ["acme/x", "*/y"] }"#] {
        let told = refused(r#"{ repository = ["acme/*"] }"#, claims);
        assert!(matches!(told, Some(IssuerError::Owner { .. })), "{claims}: {told:?}");
    }
    for claims in [r#"{ repository = ["acme/*"], ref = [] }"#, r#"{ repository = ["acme/*"], ref = [""] }"#] {
        let told = refused(r#"{ repository = ["acme/*"] }"#, claims);
        assert!(matches!(told, Some(IssuerError::Pattern { .. })), "{claims}: {told:?}");
    }
    assert_eq!(refused(r#""submit""#, r#""admin""#), Some(IssuerError::Admin("forge".to_owned())));
    assert_eq!(refused(r#"["fleet"]"#, "[]"), Some(IssuerError::Audience("forge".to_owned())));
    assert_eq!(refused(r#"["fleet"]"#, r#"[""]"#), Some(IssuerError::Audience("forge".to_owned())));
    assert_eq!(refused(r#"name = "forge""#, r#"name = "a/b""#), Some(IssuerError::Name("a/b".to_owned())));
    assert_eq!(refused(r#"jwks_file = "/nowhere""#, ""), Some(IssuerError::Keys("forge".to_owned())));
    let urls = [
        "http://forge.example.org/jwks",
        "file:///etc/passwd",
        "https:///jwks",
        "https://u:p@forge/jwks",
        "ftp://x/",
    ];
    for url in urls {
        let told = refused(r#"jwks_file = "/nowhere""#, &format!("jwks_url = {url:?}"));
        assert_eq!(told, Some(IssuerError::Url("forge".to_owned())), "{url}");
    }
    assert!(toml::from_str::<IssuerConfig>(&format!("{RULES}\nunknown = 1")).is_err());
    let twice = Verifier::new(vec![parse(RULES), parse(RULES)]);
    assert!(matches!(twice, Err(SourceError::Issuer(IssuerError::Twice(_)))));
}

/// An issuer whose keys are served over https, and where to find them.
struct Served {
    issuer: TestIssuer,
    answer: HttpsAnswer,
    config: IssuerConfig,
    _directory: TempDir,
}

async fn served() -> Served {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::open(directory.path(), unix_now()).expect("a CA");
    let shown = authority.make_server(unix_now(), &["127.0.0.1".to_owned()]).expect("a certificate");
    let issuer = TestIssuer::new(FORGE);
    let answer = HttpsAnswer::serve(&shown, issuer.jwks().to_string()).await;
    let ca_file = directory.path().join("authority.pem");
    let url = format!("https://{}/keys?v=1", answer.address);
    let config =
        IssuerConfig { jwks_file: None, jwks_url: Some(url), ca_file: Some(ca_file), ..parse(RULES) };
    Served { issuer, answer, config, _directory: directory }
}

impl Served {
    fn token(&self) -> String {
        let claims = self.issuer.claims(unix_now(), "fleet", "acme/site", "refs/heads/main");
        self.issuer.token(&claims, SignedWith::Ec)
    }

    async fn failure(&self) -> SourceError {
        let verifier = Verifier::new(vec![self.config.clone()]).expect("the configuration is well");
        match verifier.verify(&self.token(), unix_now()).await {
            Err(VerifyError::Unavailable { source, .. }) => source,
            other => panic!("keys were had: {other:?}"),
        }
    }
}

#[tokio::test]
async fn keys_are_fetched_once_for_many_bearers() {
    let served = served().await;
    let verifier =
        Verifier::new(vec![served.config.clone()]).expect("it is well").refreshing_every(Duration::ZERO);
    let verifier = std::sync::Arc::new(verifier);
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (verifier, token) = (verifier.clone(), served.token());
            tokio::spawn(async move { verifier.verify(&token, unix_now()).await })
        })
        .collect();
    for task in tasks {
        let client = task.await.expect("no panic").expect("the token is good");
        assert_eq!(client.role, Role::Submit);
    }
    assert_eq!(served.answer.asked(), 1);
}

#[tokio::test]
async fn tokens_with_unknown_keys_do_not_hammer_the_issuer() {
    let mut served = served().await;
    let verifier = Verifier::new(vec![served.config.clone()]).expect("it is well");
    verifier.verify(&served.token(), unix_now()).await.expect("the token is good");
    served.issuer.rotate();
    for _ in 0..20 {
        let told = verifier.verify(&served.token(), unix_now()).await;
        assert!(matches!(told, Err(VerifyError::Refused(OidcError::UnknownKey))), "{told:?}");
    }
    assert_eq!(served.answer.asked(), 1, "the last fetch was a moment ago");
}

#[tokio::test]
async fn a_new_key_of_the_issuer_is_found() {
    let mut served = served().await;
    let verifier =
        Verifier::new(vec![served.config.clone()]).expect("it is well").refreshing_every(Duration::ZERO);
    verifier.verify(&served.token(), unix_now()).await.expect("the token is good");
    served.issuer.rotate();
    served.answer.set(200, served.issuer.jwks().to_string());
    verifier.verify(&served.token(), unix_now()).await.expect("the new key is published");
    assert_eq!(served.answer.asked(), 2);
}

#[tokio::test]
async fn keys_that_cannot_be_renewed_go_on_counting() {
    let mut served = served().await;
    served.config.keys_ttl_s = Some(0);
    let verifier =
        Verifier::new(vec![served.config.clone()]).expect("it is well").refreshing_every(Duration::ZERO);
    verifier.verify(&served.token(), unix_now()).await.expect("the token is good");
    served.answer.set(503, "");
    verifier.verify(&served.token(), unix_now()).await.expect("the keys of before count");
    assert_eq!(served.answer.asked(), 2);
}

#[tokio::test]
async fn bad_answers_are_told_apart_and_never_taken_for_keys() {
    let served = served().await;
    served.answer.set(200, vec![b' '; 10_000_000]);
    assert!(matches!(served.failure().await, SourceError::Answer));
    served.answer.set(302, served.issuer.jwks().to_string());
    assert!(matches!(served.failure().await, SourceError::Status(302)), "redirects are not followed");
    served.answer.set(200, "<html>");
    assert!(matches!(served.failure().await, SourceError::Keys(KeySetError::Malformed)));

    let other = self::served().await;
    let mut config = served.config.clone();
    config.ca_file = other.config.ca_file.clone();
    let misled = Served { config, ..served };
    misled.answer.set(200, misled.issuer.jwks().to_string());
    assert!(
        matches!(misled.failure().await, SourceError::Dial(_)),
        "the address shows another CA's certificate"
    );
}

#[tokio::test]
async fn keys_come_from_a_file_too_and_a_missing_one_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("jwks.json");
    let issuer = TestIssuer::new(FORGE);
    let config = IssuerConfig { jwks_file: Some(file.clone()), ..parse(RULES) };
    let verifier = Verifier::new(vec![config]).expect("it is well").refreshing_every(Duration::ZERO);
    let claims = issuer.claims(unix_now(), "fleet", "acme/site", "refs/heads/main");
    let token = issuer.token(&claims, SignedWith::Rsa);
    let told = verifier.verify(&token, unix_now()).await.expect_err("there is no file");
    assert!(matches!(told, VerifyError::Unavailable { source: SourceError::File(_), .. }), "{told:?}");
    std::fs::write(&file, issuer.jwks().to_string()).expect("it can be written");
    verifier.verify(&token, unix_now()).await.expect("the token is good");

    let mut elsewhere = claims;
    elsewhere["iss"] = json!("https://other.example.org");
    let told = verifier.verify(&issuer.token(&elsewhere, SignedWith::Rsa), unix_now()).await;
    assert!(matches!(told, Err(VerifyError::Refused(OidcError::UnknownIssuer))));
}

proptest! {
    #[test]
    fn no_token_and_no_key_set_makes_the_parsers_panic(
        text in ".{0,200}",
        parts in prop::collection::vec("[-_A-Za-z0-9]{0,80}", 0..5),
        header in ".{0,60}",
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let forge = Forge::new();
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let _ = forge.verify(&text);
        let _ = forge.verify(&parts.join("."));
        let _ = forge.verify(&format!("{}.{}.{}", encode(&header), encode(&text), encode(&header)));
        let header = encode(r#"{"alg":"ES256","kid":"ec1"}"#);
        let _ = forge.verify(&format!("{header}.{}.{}", encode(&text), URL_SAFE_NO_PAD.encode(&bytes)));
        let _ = KeySet::parse(&bytes);
        let _ = KeySet::parse(format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":{text:?},"y":"AA"}}]}}"#).as_bytes());
    }
}

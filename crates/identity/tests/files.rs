//! Files of keys and certificates: what is refused and how it is said, what survives a crash, and bytes from
//! anywhere that must not make a parser panic.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use fleet_identity::authority::lifetime;
use fleet_identity::credentials::CredentialsError;
use fleet_identity::keyfile::{self, MAX_FILE_LEN};
use fleet_identity::{
    Authority, AuthorityError, CaFiles, Credentials, FileError, Grant, Identity, IdentityError, Kind, NewKey,
    PublicKey, RequestError, Role, TokenId,
};
use proptest::prelude::*;
use tempfile::TempDir;

const NOW: u64 = 1_800_000_000;

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

fn grant() -> Grant {
    Grant { name: "b1".parse().expect("a name"), enrolment: TokenId::from_bytes([1; 8]) }
}

#[test]
fn private_keys_that_others_could_have_read_or_changed_are_refused() {
    let directory = directory();
    let path = directory.path().join("key");
    keyfile::write_private(&path, b"secret").expect("it can be written");
    assert_eq!(mode_of(&path), 0o600);
    for mode in [0o604, 0o644, 0o602, 0o620, 0o660, 0o666] {
        set_mode(&path, mode);
        let told = keyfile::read_private(&path);
        assert!(matches!(told, Err(FileError::TooOpen { mode: seen, .. }) if seen == mode), "{mode:o}");
    }
    for mode in [0o600, 0o400, 0o440] {
        set_mode(&path, mode);
        assert_eq!(keyfile::read_private(&path).expect("it is private").as_slice(), b"secret");
    }
}

#[test]
fn what_is_no_plain_file_of_a_sane_size_is_refused_without_waiting() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    keyfile::write_private(&at("key"), b"secret").expect("it can be written");
    symlink(at("key"), at("link")).expect("it can be linked");
    fs::create_dir(at("dir")).expect("it can be made");
    set_mode(&at("dir"), 0o700);
    keyfile::write_private(&at("large"), &vec![b'a'; usize::try_from(MAX_FILE_LEN).expect("small") + 1])
        .expect("room");
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("a pipe");
    assert!(matches!(keyfile::read_private(&at("link")), Err(FileError::Symlink(_))));
    keyfile::read_public(&at("link")).expect("certificates may be linked");
    for read in [
        |path: &Path| keyfile::read_private(path).map(|_| ()),
        |path: &Path| keyfile::read_public(path).map(|_| ()),
    ] {
        assert!(matches!(read(&at("none")), Err(FileError::Missing(_))));
        assert!(matches!(read(&at("dir")), Err(FileError::NotAFile(_))));
        assert!(matches!(read(&at("pipe")), Err(FileError::NotAFile(_))));
        assert!(matches!(read(&at("large")), Err(FileError::TooLarge(_))));
        assert!(matches!(read(&at("key/below")), Err(FileError::Io { .. })));
    }
}

#[test]
fn files_are_replaced_whole_and_created_once() {
    let directory = directory();
    let path = directory.path().join("key");
    assert!(keyfile::create_private(&path, b"first").expect("there is room"));
    assert!(!keyfile::create_private(&path, b"second").expect("there is room"));
    assert_eq!(fs::read(&path).expect("it is there"), b"first");
    keyfile::write_private(&path, b"third").expect("there is room");
    assert_eq!(fs::read(&path).expect("it is there"), b"third");
    keyfile::write_private(&directory.path().join("no/such"), b"").expect_err("there is no such directory");
    let left: Vec<PathBuf> = fs::read_dir(directory.path())
        .expect("it is there")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert_eq!(left, [path], "nothing is left aside");
}

#[test]
fn a_waiting_key_is_the_same_after_a_crash() {
    let directory = directory();
    let path = directory.path().join("waiting.pem");
    let first = NewKey::open(&path).expect("it is made");
    let again = NewKey::open(&path).expect("it is there");
    assert_eq!(first.fingerprint(), again.fingerprint());
    assert_eq!(mode_of(&path), 0o600);
    let asked = PublicKey::from_request(&again.request()).expect("the request is good");
    assert_eq!(asked.fingerprint, first.fingerprint());
    fs::write(&path, "not a key").expect("it is ours");
    assert!(matches!(NewKey::open(&path), Err(RequestError::NotAKey(_))));
    let shown = format!("{first:?}");
    assert!(!shown.contains("PRIVATE"), "{shown}");
}

#[test]
fn credentials_survive_their_file() {
    let directory = directory();
    let authority = Authority::open(directory.path(), NOW).expect("a CA");
    let path = directory.path().join("admin.pem");
    let made =
        authority.make_client(NOW, 3600, &"ann".parse().expect("a name"), Role::Admin).expect("it signs");
    made.write(&path).expect("it can be written");
    assert_eq!(mode_of(&path), 0o600);
    let read = Credentials::read(&path).expect("it was written");
    assert_eq!(read.to_pem(), made.to_pem());
    let identity = read.identity().expect("it names somebody");
    assert_eq!((identity.kind, identity.name.as_str()), (Kind::Client { role: Role::Admin }, "ann"));
    assert_eq!((identity.not_before, identity.not_after), (NOW - lifetime::BACKDATED_S, NOW + 3600));
    assert!(!format!("{made:?}").contains("PRIVATE"));

    let pem = made.to_pem();
    let blocks: Vec<&str> = pem.split_inclusive("-----END CERTIFICATE-----\n").collect();
    let (key, leaf) = blocks[0].split_once("-----BEGIN CERTIFICATE").expect("the key stands first");
    let cases = [
        (format!("-----BEGIN CERTIFICATE{leaf}{}", blocks[1]), "private key (PKCS#8)"),
        (format!("{key}{}", blocks[1]), "certificate of its own"),
        (blocks[0].to_owned(), "certificate of a CA to trust"),
        (String::new(), "private key (PKCS#8)"),
    ];
    for (text, lacking) in cases {
        keyfile::write_private(&path, text.as_bytes()).expect("it can be written");
        let told = Credentials::read(&path);
        assert!(
            matches!(told, Err(CredentialsError::Lacks { what, .. }) if what == lacking),
            "{lacking}: {told:?}"
        );
    }
    keyfile::write_private(&path, &pem.as_bytes()[..pem.len() - 30]).expect("it can be written");
    assert!(matches!(Credentials::read(&path), Err(CredentialsError::NotPem(_))));
}

#[test]
fn a_ca_is_made_once_and_signs_what_it_is_told() {
    let directory = directory();
    let first = Authority::open(directory.path(), NOW).expect("a CA");
    let again = Authority::open(directory.path(), NOW + 3600).expect("it is there");
    assert_eq!(first.fingerprint(), again.fingerprint());
    assert_eq!(mode_of(&directory.path().join("authority.pem")), 0o600);

    let key = NewKey::generate();
    let public = PublicKey::from_request(&key.request()).expect("the request is good");
    let issued = first.sign_worker(NOW, &grant(), &public).expect("it signs");
    assert_eq!(issued.key, key.fingerprint());
    let identity = Identity::from_certificate(&issued.certificate).expect("it names a worker");
    assert_eq!(identity, issued.identity);
    assert_eq!(identity.kind, Kind::Worker { enrolment: grant().enrolment });
    assert_eq!(identity.not_after, NOW + 24 * 3600);
    let life = identity.not_after - identity.not_before;
    assert_eq!(identity.renew_at(), identity.not_after - life / 3);
    let other = first.sign_worker(NOW, &grant(), &public).expect("it signs");
    assert_ne!(other.identity.serial, identity.serial);
}

#[test]
fn two_starting_at_once_agree_on_one_ca() {
    let directory = directory();
    let made: Vec<_> = std::thread::scope(|scope| {
        let open = || Authority::open(directory.path(), NOW).expect("a CA").fingerprint();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(made.iter().all(|fingerprint| *fingerprint == made[0]), "{made:?}");
}

#[test]
fn two_cas_are_kept_and_an_old_one_that_ran_out_is_forgotten() {
    let directory = directory();
    let old = Authority::open(directory.path(), NOW).expect("a CA");
    let both = Authority::rotate(directory.path(), NOW + 1000).expect("a second CA");
    assert_eq!(both.certificates().len(), 2);
    assert_eq!(both.certificates()[1], old.certificates()[0]);
    let late = Authority::open(directory.path(), NOW + lifetime::CA_S + 500).expect("the new one counts");
    assert_eq!(late.certificates(), both.certificates()[..1]);
    let later = Authority::open(directory.path(), NOW + lifetime::CA_S + 2000);
    assert!(matches!(later, Err(AuthorityError::NotValidNow(_))), "{later:?}");
}

#[test]
fn cas_given_as_files_are_checked() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("a")).expect("it can be made");
    fs::create_dir(at("b")).expect("it can be made");
    let one = Authority::open(&at("a"), NOW).expect("a CA");
    let two = Authority::open(&at("b"), NOW).expect("a CA");
    let leaf = one.make_server(NOW, &["localhost".to_owned()]).expect("it signs");
    fs::write(
        at("leaf.pem"),
        leaf.to_pem().split_inclusive("-----END CERTIFICATE-----\n").next().expect("a leaf"),
    )
    .expect("it can be written");
    set_mode(&at("leaf.pem"), 0o600);
    fs::write(at("noise"), "noise").expect("it can be written");
    set_mode(&at("noise"), 0o600);
    let (a, b) = (at("a/authority.pem"), at("b/authority.pem"));
    fs::write(at("both.pem"), [fs::read(&a).expect("a"), fs::read(&b).expect("b")].concat()).expect("room");
    set_mode(&at("both.pem"), 0o600);
    let load = |certificate: &Path, key: Option<&Path>| {
        let files = CaFiles { certificate: certificate.to_owned(), key: key.map(Path::to_owned) };
        Authority::load(&[files], NOW).map(|authority| authority.fingerprint())
    };
    assert_eq!(load(&a, Some(&a)).expect("it is a CA"), one.fingerprint());
    assert!(matches!(load(&at("leaf.pem"), Some(&at("leaf.pem"))), Err(AuthorityError::NotACa(_))));
    assert!(matches!(load(&a, Some(&b)), Err(AuthorityError::WrongKey(path)) if path == b));
    assert!(matches!(load(&a, Some(&at("noise"))), Err(AuthorityError::NoKey(_))));
    assert!(matches!(load(&at("noise"), Some(&a)), Err(AuthorityError::NoCertificate(_))));
    assert!(matches!(load(&at("both.pem"), Some(&a)), Err(AuthorityError::NoCertificate(_))));
    assert!(matches!(load(&at("none"), Some(&a)), Err(AuthorityError::File(FileError::Missing(_)))));
    assert!(matches!(load(&a, Some(&at("none"))), Err(AuthorityError::File(FileError::Missing(_)))));
    assert!(matches!(load(&a, None), Err(AuthorityError::NoSigner)));
    assert!(matches!(Authority::load(&[], NOW), Err(AuthorityError::NoSigner)));
    for (now, late) in [(NOW - 2 * lifetime::BACKDATED_S, false), (NOW + lifetime::CA_S + 1, true)] {
        let files = CaFiles { certificate: a.clone(), key: Some(a.clone()) };
        assert!(
            matches!(Authority::load(&[files], now), Err(AuthorityError::NotValidNow(_))),
            "late: {late}"
        );
    }
    set_mode(&a, 0o644);
    assert!(matches!(load(&a, Some(&a)), Err(AuthorityError::File(FileError::TooOpen { .. }))));
    drop(two);
}

#[test]
fn the_ports_names_are_checked() {
    let directory = directory();
    let authority = Authority::open(directory.path(), NOW).expect("a CA");
    for bad in ["", "a b", "-x", "fleet.example.org:7143", "[::1]", "https://x"] {
        let told = authority.make_server(NOW, &[bad.to_owned()]);
        assert!(matches!(told, Err(AuthorityError::BadServerName(name)) if name == bad), "{bad}");
    }
    assert!(matches!(authority.make_server(NOW, &[]), Err(AuthorityError::NoServerName)));
    let names = ["::1", "127.0.0.1", "fleet.example.org", "localhost"].map(str::to_owned);
    authority.make_server(NOW, &names).expect("all are names");
    authority.make_server(u64::MAX, &names).expect("no time is too late to be written down");
}

#[test]
fn only_requests_signed_with_a_good_key_count() {
    let request = NewKey::generate().request();
    PublicKey::from_request(&request).expect("it is good");
    assert!(matches!(PublicKey::from_request(&[]), Err(RequestError::Malformed)));
    assert!(matches!(PublicKey::from_request(&[&request[..], b"x"].concat()), Err(RequestError::Malformed)));
    assert!(matches!(PublicKey::from_request(&vec![0; 9000]), Err(RequestError::TooLarge)));
    let mut forged = request.clone();
    *forged.last_mut().expect("it is not empty") ^= 1;
    assert!(PublicKey::from_request(&forged).is_err());
    for at in 0..request.len() {
        assert!(PublicKey::from_request(&request[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn certificates_that_name_nobody_or_several_are_refused() {
    let names: [&[&str]; 9] = [
        &[],
        &["fleet://worker/b1"],
        &["fleet://worker/b1?enrolment=0101010101010101&role=admin"],
        &["fleet://client/b1?role=root"],
        &["fleet://client/B1?role=admin"],
        &["fleet://client/a/b?role=admin"],
        &["https://client/b1?role=admin"],
        &["fleet://client/b1?role=read", "fleet://client/b1?role=admin"],
        &["fleet://worker/b1?enrolment=010101010101010"],
    ];
    for uris in names {
        let mut params = rcgen::CertificateParams::default();
        let uri = |uri: &&str| rcgen::SanType::URI((*uri).try_into().expect("ASCII"));
        params.subject_alt_names = uris.iter().map(uri).collect();
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("it signs");
        assert_eq!(Identity::from_certificate(certificate.der()), Err(IdentityError::Nobody), "{uris:?}");
    }
}

fn any_change() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_the_certificate_parsers_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        changes in any_change(),
        cut in any::<prop::sample::Index>(),
    ) {
        static SIGNED: std::sync::LazyLock<[Vec<u8>; 2]> = std::sync::LazyLock::new(|| {
            let directory = directory();
            let authority = Authority::open(directory.path(), NOW).expect("a CA");
            let request = NewKey::generate().request();
            let public = PublicKey::from_request(&request).expect("the request is good");
            [authority.sign_worker(NOW, &grant(), &public).expect("it signs").certificate, request]
        });
        let _ = Identity::from_certificate(&bytes);
        let _ = PublicKey::from_request(&bytes);
        for good in &*SIGNED {
            let mut changed = good.clone();
            for (at, byte) in &changes {
                let at = at.index(changed.len());
                changed[at] = *byte;
            }
            changed.truncate(changed.len() - cut.index(8));
            let _ = Identity::from_certificate(&changed);
            let _ = PublicKey::from_request(&changed);
        }
    }
}

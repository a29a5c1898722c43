use super::*;
use proptest::prelude::*;

fn key(name: &str) -> SecretKey {
    SecretKey::from_seed(name, &[7; 32]).expect("valid name")
}

#[test]
fn a_signature_is_of_one_key_and_one_message() {
    let secret = key("cache-1");
    let signature = secret.sign(b"message");
    assert!(secret.public_key().verifies(b"message", &signature));
    assert!(!secret.public_key().verifies(b"massage", &signature));
    assert!(!key("cache-2").public_key().verifies(b"message", &signature), "another name");
    let other = SecretKey::from_seed("cache-1", &[8; 32]).expect("valid name");
    assert!(!other.public_key().verifies(b"message", &signature), "another key");
}

#[test]
fn texts_read_back() {
    let secret = key("cache-1");
    let read: SecretKey = secret.to_secret_string().parse().expect("our own text");
    assert_eq!(read.public_key(), secret.public_key());
    assert_eq!(secret.public_key().to_string().parse(), Ok(secret.public_key()));
    let signature = secret.sign(b"");
    assert_eq!(signature.to_string().parse(), Ok(signature));
}

#[test]
fn debug_output_keeps_the_secret() {
    assert_eq!(format!("{:?}", key("cache-1")), "SecretKey(cache-1:…)");
}

#[test]
fn faults_are_named() {
    let parse = |text: &str| text.parse::<Signature>().expect_err("bad text");
    assert_eq!(parse("abc"), SignatureError::MissingName);
    assert_eq!(parse(":abc"), SignatureError::MissingName);
    assert_eq!(parse("a b:AAAA"), SignatureError::BadName);
    assert_eq!(parse("a\n:AAAA"), SignatureError::BadName);
    assert_eq!(parse(&format!("{}:AAAA", "a".repeat(256))), SignatureError::BadName);
    assert_eq!(parse("a:AAAA"), SignatureError::WrongLength { expected: 64, found: 3 });
    assert!(matches!(parse("a:AA~A"), SignatureError::Base64(_)));
    assert!(matches!(parse(&format!("a:{}", "A".repeat(4000))), SignatureError::WrongLength { .. }));
    let mut halves = [1; 64];
    halves[32..].fill(2);
    let text = format!("a:{}", base64::encode(&halves));
    assert_eq!(text.parse::<SecretKey>().map(|_| ()), Err(SignatureError::BadKey));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text: String) {
        let _ = text.parse::<Signature>();
        let _ = text.parse::<PublicKey>();
        let _ = text.parse::<SecretKey>();
    }

    #[test]
    fn arbitrary_public_keys_never_panic(bytes: [u8; 32], message: Vec<u8>) {
        let text = format!("a:{}", base64::encode(&bytes));
        if let Ok(public) = text.parse::<PublicKey>() {
            prop_assert!(!public.verifies(&message, &key("a").sign(&message)));
        }
    }
}

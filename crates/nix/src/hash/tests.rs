use super::*;
use proptest::prelude::*;

const ALGORITHMS: [HashAlgorithm; 4] =
    [HashAlgorithm::Md5, HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha512];

#[test]
fn faults_are_named() {
    let sha256 = Some(HashAlgorithm::Sha256);
    let empty_md5 = "md5:d41d8cd98f00b204e9800998ecf8427e";
    let wrong = HashError::WrongAlgorithm { expected: HashAlgorithm::Sha256, found: HashAlgorithm::Md5 };
    assert_eq!(Hash::parse(empty_md5, sha256), Err(wrong));
    assert_eq!(Hash::parse("00", None), Err(HashError::MissingAlgorithm));
    assert_eq!(
        Hash::parse("00", sha256),
        Err(HashError::WrongLength { algorithm: HashAlgorithm::Sha256, length: 2 })
    );
    assert_eq!(Hash::parse("sha3:00", None), Err(HashError::UnknownAlgorithm("sha3".into())));
    assert!(matches!(
        Hash::parse("md5-d41d8cd98f00b204e9800998ecf8427e", None),
        Err(HashError::WrongLength { .. })
    ));
    assert_eq!(Hash::new(HashAlgorithm::Sha1, &[0; 19]), None);
}

#[test]
fn every_notation_is_that_of_nix() {
    let vectors = include_str!("../../tests/fixtures/hashes.tsv");
    assert_eq!(vectors.lines().count(), 8);
    for line in vectors.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, text, base16, nix32, base64, sri] = fields[..] else { panic!("{line}") };
        let algorithm = name.parse().expect("known");
        let hash = Hash::of(algorithm, text.as_bytes());
        let printed = [hash.to_base16(), hash.to_nix32(), hash.to_base64(), hash.to_sri()];
        assert_eq!(printed, [base16, nix32, base64, sri]);
        for written in [base16, nix32, base64, sri] {
            assert_eq!(Hash::parse(written, Some(algorithm)), Ok(hash), "{written}");
        }
    }
}

#[test]
fn nar_hasher_counts_and_hashes() {
    let mut hasher = NarHasher::new();
    std::io::Write::write_all(&mut hasher, b"ab").expect("hashing does not fail");
    hasher.update(b"c");
    assert_eq!(hasher.finish(), (NarHash::of(b"abc"), 3));
}

fn any_hash() -> impl Strategy<Value = Hash> {
    (0..4usize, any::<Vec<u8>>()).prop_map(|(which, bytes)| Hash::of(ALGORITHMS[which], &bytes))
}

proptest! {
    #[test]
    fn every_notation_reads_back(hash in any_hash()) {
        let algorithm = Some(hash.algorithm());
        prop_assert_eq!(Hash::parse(&hash.to_sri(), None), Ok(hash));
        prop_assert_eq!(Hash::parse(&hash.to_string(), None), Ok(hash));
        for bare in [hash.to_base16(), hash.to_nix32(), hash.to_base64()] {
            prop_assert_eq!(Hash::parse(&bare, algorithm), Ok(hash));
            prop_assert_eq!(Hash::parse(&format!("{}:{bare}", hash.algorithm()), algorithm), Ok(hash));
        }
    }

    #[test]
    fn hashing_in_pieces_is_hashing_at_once(bytes: Vec<u8>, cut in 0..100usize) {
        let cut = cut.min(bytes.len());
        for algorithm in ALGORITHMS {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&bytes[..cut]);
            hasher.update(&bytes[cut..]);
            prop_assert_eq!(hasher.finish(), Hash::of(algorithm, &bytes));
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text: String) {
        let _ = Hash::parse(&text, None);
        for algorithm in ALGORITHMS {
            let _ = Hash::parse(&text, Some(algorithm));
        }
    }
}

//! The keys that sign what the cache serves. The only module that has them: others ask it to sign, and for the public
//! halves. Given as files, two of them while one takes the other's place; or one of our own, made once.

use std::path::PathBuf;

use arc_swap::ArcSwap;
use fleet_identity::{FileError, keyfile};
use fleet_nix::signature::SignatureError;
use fleet_nix::{PathInfo, SecretKey, StoreDir};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::config::Config;

/// Keys at a time: the old one and the new one.
const MAX_KEYS: usize = 2;
/// The file of the key of our own, below the state directory.
const OWN_KEY: &str = "cache-key";

/// Why there are no keys.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// It holds something else.
    #[error("{}: holds no secret key as `nix key generate-secret` makes it", path.display())]
    NoKey {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: SignatureError,
    },
    /// It is not text.
    #[error("{}: holds no secret key as `nix key generate-secret` makes it", .0.display())]
    NotText(PathBuf),
    /// Everything that is served carries all signatures.
    #[error("at most {MAX_KEYS} keys sign at a time: the old one and the new one")]
    TooMany,
    /// Nix tells keys by their names.
    #[error("two keys have the name {0}: give the new one another")]
    SameName(String),
    /// There is no randomness to make one from.
    #[error("the system gives no randomness")]
    Randomness(#[source] std::io::Error),
}

/// Signs what is served.
#[derive(Debug)]
pub(crate) struct Signer {
    keys: ArcSwap<Vec<SecretKey>>,
}

impl Signer {
    /// With the keys of the settings; without any, the own one is made when it is not there.
    pub(crate) fn open(config: &Config) -> Result<Self, KeyError> {
        let keys = load(config)?;
        let signer = Self { keys: ArcSwap::from_pointee(keys) };
        signer.say_keys();
        Ok(signer)
    }

    /// With the keys of other settings from now on; on an error everything stays as it was.
    pub(crate) fn reload(&self, config: &Config) -> Result<(), KeyError> {
        let keys = load(config)?;
        let before = self.public_keys();
        self.keys.store(keys.into());
        if self.public_keys() != before {
            self.say_keys();
        }
        Ok(())
    }

    /// The public halves, as Nix prints them.
    pub(crate) fn public_keys(&self) -> Vec<String> {
        self.keys.load().iter().map(|key| key.public_key().to_string()).collect()
    }

    /// Adds a signature of each key.
    pub(super) fn sign(&self, store_dir: &StoreDir, info: &mut PathInfo) {
        for key in self.keys.load().iter() {
            info.sign(store_dir, key);
        }
    }

    fn say_keys(&self) {
        for key in self.public_keys() {
            tracing::info!(%key, "the cache is signed; machines that use it need this in trusted-public-keys");
        }
    }
}

fn load(config: &Config) -> Result<Vec<SecretKey>, KeyError> {
    let given = given(config)?;
    if given.is_empty() { own(config).map(|key| vec![key]) } else { Ok(given) }
}

/// The keys that are given as files; nothing is made.
pub(crate) fn given(config: &Config) -> Result<Vec<SecretKey>, KeyError> {
    let files = &config.cache.keys;
    if files.len() > MAX_KEYS {
        return Err(KeyError::TooMany);
    }
    let keys: Vec<_> =
        files.iter().map(|file| read(config.secret_file(file))).collect::<Result<_, KeyError>>()?;
    match keys.as_slice() {
        [one, other] if one.name() == other.name() => Err(KeyError::SameName(one.name().to_owned())),
        _ => Ok(keys),
    }
}

fn own(config: &Config) -> Result<SecretKey, KeyError> {
    let path = config.state_dir.join(OWN_KEY);
    match read(path.clone()) {
        Err(KeyError::File(FileError::Missing(_))) => {}
        found => return found,
    }
    let text = generate(&own_name())?;
    // Of two that start at a time, the first one's counts.
    keyfile::create_private(&path, text.as_bytes())?;
    read(path)
}

/// This machine's name, as far as keys may have it, and a number to count up when the key is replaced.
fn own_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain: String =
        host.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-.".contains(*letter)).collect();
    format!("{}-1", if plain.is_empty() { "fleet" } else { &plain })
}

fn generate(name: &str) -> Result<Zeroizing<String>, KeyError> {
    let mut seed = Zeroizing::new([0; 32]);
    let mut filled = 0;
    while filled < seed.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        let more = rustix::rand::getrandom(&mut seed[filled..], flags);
        filled += more.map_err(|error| KeyError::Randomness(error.into()))?;
    }
    let key = SecretKey::from_seed(name, &seed);
    let key = key.expect("names are made of few letters");
    Ok(Zeroizing::new(key.to_secret_string()))
}

fn read(path: PathBuf) -> Result<SecretKey, KeyError> {
    let bytes = keyfile::read_private(&path)?;
    let Ok(text) = std::str::from_utf8(&bytes) else { return Err(KeyError::NotText(path)) };
    text.trim_ascii().parse().map_err(|source| KeyError::NoKey { path, source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn config(directory: &tempfile::TempDir, keys: &[&str]) -> Config {
        let mut config = Config::new(directory.path().to_owned());
        config.credentials = Some(directory.path().to_owned());
        config.cache.keys = keys.iter().map(PathBuf::from).collect();
        config
    }

    fn write(directory: &tempfile::TempDir, file: &str, text: &str) {
        keyfile::write_private(&directory.path().join(file), text.as_bytes()).expect("a file");
    }

    #[test]
    fn a_key_of_our_own_is_made_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = config(&directory, &[]);
        let first = Signer::open(&config).expect("makes a key").public_keys();
        assert_eq!(Signer::open(&config).expect("finds it").public_keys(), first);
        let file = directory.path().join(OWN_KEY);
        assert_eq!(std::fs::metadata(file).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(first.len(), 1);
    }

    #[test]
    fn two_keys_sign_while_one_takes_the_others_place() {
        let directory = tempfile::tempdir().expect("a directory");
        let (old, new) = (generate("k-1").expect("random"), generate("k-2").expect("random"));
        write(&directory, "old", &old);
        write(&directory, "new", &format!("{}\n", *new));
        let signer = Signer::open(&config(&directory, &["old"])).expect("a key");
        let before = signer.public_keys();
        signer.reload(&config(&directory, &["old", "new"])).expect("two keys");
        assert_eq!(signer.public_keys().len(), 2);
        assert_eq!(signer.public_keys()[0], before[0]);
        signer.reload(&config(&directory, &["new"])).expect("one key");
        assert_ne!(signer.public_keys(), before);
    }

    #[test]
    fn keys_that_cannot_be_kept_secret_or_are_none_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = generate("k-1").expect("random");
        write(&directory, "a", &key);
        write(&directory, "b", &key);
        write(&directory, "c", "k-1:bm9uZQ==");
        write(&directory, "open", &key);
        let open = directory.path().join("open");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).expect("our file");
        let refused = |keys: &[&str]| match Signer::open(&config(&directory, keys)) {
            Err(error) => error.to_string(),
            Ok(signer) => panic!("{keys:?}: {signer:?}"),
        };
        assert!(refused(&["open"]).contains("others can read"));
        assert!(refused(&["a", "b"]).contains("two keys have the name k-1"));
        assert!(refused(&["a", "b", "c"]).contains("at most 2 keys"));
        assert!(refused(&["c"]).contains("holds no secret key"));
        assert!(refused(&["absent"]).contains("there is no such file"));
    }

    #[test]
    fn nothing_prints_a_key() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = generate("k-1").expect("random");
        write(&directory, "a", &key);
        let signer = Signer::open(&config(&directory, &["a"])).expect("a key");
        let secret = key.split_once(':').expect("a name").1;
        assert!(!format!("{signer:?}").contains(&secret[..16]));
    }
}

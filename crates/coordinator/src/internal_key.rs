//! The keys by which workers know the coordinator's word: what a path is, and who may fetch it from whom. Owns the
//! secret keys; their bytes are seen nowhere else. These are not the keys of the binary cache.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleet_identity::keyfile::{self, FileError};
use fleet_identity::secret;
use fleet_nix::base16;
use fleet_nix::signature::SignatureError;
use fleet_nix::{PathInfo, SecretKey, Signature, StoreDir, fingerprint};
use fleet_wire::v1;
use prost::Message;
use thiserror::Error;

/// In the state directory, unless other files are named.
const FILE: &str = "internal-key";
/// One signs; another is still believed while keys change.
const MAX_KEYS: usize = 2;
/// What the signature of a ticket begins with, so that it is the signature of nothing else.
const TICKET: &[u8] = b"fleet-ticket-1;";

/// Why there is no key.
#[derive(Debug, Error)]
pub enum InternalKeyError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What it holds.
    #[error("{path}: holds no key as `nix key generate-secret` makes them")]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: SignatureError,
    },
    /// Not text.
    #[error("{0}: holds no key as `nix key generate-secret` makes them")]
    Text(PathBuf),
    /// More than are told apart.
    #[error("{0} internal keys: at most two, while one takes the other's place")]
    TooMany(usize),
}

/// The keys; the first signs. Clones share them.
#[derive(Clone)]
pub(crate) struct InternalKeys {
    keys: Arc<Vec<SecretKey>>,
    store_dir: StoreDir,
}

impl fmt::Debug for InternalKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.public()).finish()
    }
}

impl InternalKeys {
    /// Reads the files; without any, the key of the state directory, which is made if there is none.
    pub(crate) fn load(files: &[PathBuf], state_dir: &Path) -> Result<Self, InternalKeyError> {
        if files.len() > MAX_KEYS {
            return Err(InternalKeyError::TooMany(files.len()));
        }
        let keys = if files.is_empty() {
            vec![own(&state_dir.join(FILE))?]
        } else {
            files.iter().map(|path| read(path)).collect::<Result<_, _>>()?
        };
        Ok(Self { keys: Arc::new(keys), store_dir: StoreDir::default() })
    }

    /// The public keys, as Nix prints them.
    pub(crate) fn public(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.public_key().to_string()).collect()
    }

    /// Says that a path is this.
    pub(crate) fn sign_info(&self, info: &PathInfo) -> Signature {
        self.signer().sign(fingerprint(&self.store_dir, info).as_bytes())
    }

    /// Lets a receiver fetch from a holder.
    pub(crate) fn sign_ticket(&self, body: &v1::TicketBody) -> v1::Ticket {
        let body = body.encode_to_vec();
        let signature = self.signer().sign(&[TICKET, &body].concat()).to_string();
        v1::Ticket { body: body.into(), signature }
    }

    fn signer(&self) -> &SecretKey {
        self.keys.first().expect("there is at least one key")
    }
}

/// The key of the state directory. Of two processes that make it at once, one wins.
fn own(path: &Path) -> Result<SecretKey, InternalKeyError> {
    match read(path) {
        Err(InternalKeyError::File(FileError::Missing(_))) => {}
        other => return other,
    }
    // Told apart from other coordinators' by a few random digits: workers may have met several.
    let name = format!("fleet-internal-{}", base16::encode(&secret::random::<4>()));
    let key = SecretKey::from_seed(&name, &secret::random())
        .map_err(|source| InternalKeyError::Key { path: path.to_owned(), source })?;
    keyfile::create_private(path, key.to_secret_string().as_bytes())?;
    read(path)
}

fn read(path: &Path) -> Result<SecretKey, InternalKeyError> {
    let bytes = keyfile::read_private(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| InternalKeyError::Text(path.to_owned()))?;
    text.trim().parse().map_err(|source| InternalKeyError::Key { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use fleet_nix::PublicKey;

    use super::*;

    fn public(keys: &InternalKeys) -> Vec<PublicKey> {
        keys.public().iter().map(|key| key.parse().expect("a public key")).collect()
    }

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let state = tempfile::tempdir().expect("a directory");
        let first = InternalKeys::load(&[], state.path()).expect("made");
        let again = InternalKeys::load(&[], state.path()).expect("read");
        assert_eq!(first.public(), again.public());
        let mode = std::fs::metadata(state.path().join(FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{first:?}").contains(&first.keys[0].to_secret_string()[40..]));
    }

    #[test]
    fn two_keys_are_believed_while_one_takes_the_other_s_place_and_the_first_signs() {
        let state = tempfile::tempdir().expect("a directory");
        let made = ["a", "b", "c"].map(|name| {
            let path = state.path().join(name);
            let key = SecretKey::from_seed(name, &secret::random()).expect("a name");
            keyfile::write_private(&path, key.to_secret_string().as_bytes()).expect("written");
            path
        });
        let keys = InternalKeys::load(&made[..2], state.path()).expect("read");
        let ticket = keys.sign_ticket(&v1::TicketBody { holder: "h".into(), ..Default::default() });
        let signature: Signature = ticket.signature.parse().expect("a signature");
        let signed = [TICKET, &ticket.body].concat();
        let verifies: Vec<bool> = public(&keys).iter().map(|key| key.verifies(&signed, &signature)).collect();
        assert_eq!(verifies, [true, false]);
        assert!(!public(&keys)[0].verifies(&ticket.body, &signature), "it signs nothing but tickets");
        let error = InternalKeys::load(&made, state.path()).expect_err("three are too many");
        assert!(matches!(error, InternalKeyError::TooMany(3)), "{error}");
    }

    #[test]
    fn files_that_others_read_or_that_hold_no_key_are_refused_by_name() {
        let state = tempfile::tempdir().expect("a directory");
        let path = state.path().join("key");
        for (text, mode) in [("name:AAAA", 0o600), ("\u{fffd}", 0o600), ("k:", 0o644)] {
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            let error = InternalKeys::load(std::slice::from_ref(&path), state.path()).expect_err("refused");
            assert!(error.to_string().contains(path.to_str().expect("text")), "{error}");
        }
    }
}

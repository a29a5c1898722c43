//! Which locked inputs are taken along. Pure.

use super::lock::{GitInput, GitUrl, Lock, LockError, LockedInput, Place};
use super::tree::InputError;

/// Inputs of one flake that are taken along, at most; the coordinator takes no more.
const MAX_CARRIED: usize = 256;

/// Where the flake is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// On this machine, by this user, but without their keys.
    Here,
    /// On machines that know nothing of this one.
    Elsewhere,
}

/// The inputs that cannot be fetched there, and those named in `bring`.
pub fn choose(lock: &Lock, reach: Reach, bring: &[String]) -> Result<Vec<LockedInput>, InputError> {
    let mut chosen: Vec<LockedInput> = Vec::new();
    for name in bring {
        let input = lock.find(name)?.ok_or_else(|| InputError::Unknown {
            name: name.clone(),
            known: lock.names().into_iter().map(str::to_owned).collect(),
        })?;
        if input.place == Place::Relative {
            // It is in the tree that comes along anyway.
            continue;
        }
        chosen.push(input);
    }
    let needed = lock.inputs()?.into_iter().filter(|input| is_out_of_reach(&input.place, reach));
    for input in needed {
        if !chosen.iter().any(|known| known.place == input.place && known.nar_hash == input.nar_hash) {
            chosen.push(input);
        }
    }
    if chosen.len() > MAX_CARRIED {
        return Err(InputError::TooMany(MAX_CARRIED));
    }
    Ok(chosen)
}

fn is_out_of_reach(place: &Place, reach: Reach) -> bool {
    let elsewhere = reach == Reach::Elsewhere;
    match place {
        Place::Relative => false,
        Place::Directory(_) => elsewhere,
        Place::Git(GitInput { url, .. }) => match url {
            GitUrl::File(_) => elsewhere,
            GitUrl::Ssh(_) => true,
            GitUrl::Remote(_) => false,
        },
        Place::Other { url, .. } => {
            elsewhere && ["file:", "ssh:"].iter().any(|scheme| url.starts_with(scheme))
        }
    }
}

impl From<LockError> for InputError {
    fn from(error: LockError) -> Self {
        Self::Lock(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"{ "version": 7, "root": "root", "nodes": {
        "root": { "inputs": { "hub": "hub", "dir": "dir", "repo": "repo", "key": "key", "sub": "sub", "ball": "ball" } },
        "hub": { "locked": { "type": "github", "owner": "o", "repo": "r", "narHash": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" },
                 "inputs": { "dir": ["dir"] } },
        "dir": { "locked": { "type": "path", "path": "/d", "narHash": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" } },
        "sub": { "locked": { "type": "path", "path": "./sub" }, "parent": [] },
        "repo": { "locked": { "type": "git", "url": "file:///r", "rev": "0000000000000000000000000000000000000000" } },
        "key": { "locked": { "type": "git", "url": "ssh://git@h/r", "rev": "0000000000000000000000000000000000000000" } },
        "ball": { "locked": { "type": "tarball", "url": "file:///b.tar" } } } }"#;

    fn names(reach: Reach, bring: &[&str]) -> Result<Vec<String>, InputError> {
        let lock = Lock::parse(LOCK.as_bytes()).expect("a lock file");
        let bring: Vec<String> = bring.iter().map(|&name| name.to_owned()).collect();
        Ok(choose(&lock, reach, &bring)?.into_iter().map(|input| input.name).collect())
    }

    #[test]
    fn what_cannot_be_fetched_there_is_taken_along() {
        assert_eq!(names(Reach::Elsewhere, &[]).expect("chosen"), ["ball", "dir", "key", "repo"]);
        assert_eq!(names(Reach::Here, &[]).expect("chosen"), ["key"]);
    }

    #[test]
    fn what_is_named_comes_along_once() {
        assert_eq!(names(Reach::Here, &["hub"]).expect("chosen"), ["hub", "key"]);
        let followed = names(Reach::Elsewhere, &["hub/dir", "sub"]).expect("chosen");
        assert_eq!(followed, ["hub/dir", "ball", "key", "repo"], "relative ones are in the tree");
        let unknown = names(Reach::Here, &["hbu"]).expect_err("refused");
        assert!(matches!(&unknown, InputError::Unknown { name, .. } if name == "hbu"), "{unknown}");
    }
}

//! The flake that is evaluated: an immutable tree in the store, with the facts that Nix shows to it.

use std::fmt::Write as _;

use crate::{NarHash, StoreDir, StorePath};

/// A flake's tree. The facts are those that plain Nix shows to the flake when it reads it from git.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlakeSource {
    /// The tree, valid in the store.
    pub path: StorePath,
    /// The hash of the tree's archive: what makes the reference locked.
    pub nar_hash: NarHash,
    /// `self.rev`; absent for a tree with uncommitted changes.
    pub rev: Option<String>,
    /// `self.revCount`
    pub rev_count: Option<u64>,
    /// `self.lastModified`, in seconds since 1970.
    pub last_modified: u64,
    /// The directory of flake.nix inside the tree, when that is not its top.
    pub subdir: Option<String>,
}

impl FlakeSource {
    /// The locked flake reference.
    pub fn reference(&self, store: &StoreDir) -> String {
        let mut url = String::from("path:");
        encode(&mut url, &store.print(&self.path), b"/");
        let _ = write!(url, "?lastModified={}&narHash=", self.last_modified);
        encode(&mut url, &self.nar_hash.to_sri(), b"");
        if let Some(subdir) = self.subdir.as_deref().filter(|subdir| !subdir.is_empty()) {
            url.push_str("&dir=");
            encode(&mut url, subdir, b"/");
        }
        if let Some(rev) = &self.rev {
            url.push_str("&rev=");
            encode(&mut url, rev, b"");
        }
        if let Some(count) = self.rev_count {
            let _ = write!(url, "&revCount={count}");
        }
        url
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters and `keep`.
fn encode(url: &mut String, text: &str, keep: &[u8]) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_of_a_fact_stays_inside_its_place() {
        let source = FlakeSource {
            path: "7rjj9cplsvfl4kd7m3iil3fm0hbjxzk1-a+b?c=d".parse().expect("a store path"),
            nar_hash: NarHash([0xff; 32]),
            rev: Some("ab&dir=/".into()),
            rev_count: Some(3),
            last_modified: 7,
            subdir: Some("hosts/a b#?".into()),
        };
        let store = StoreDir::new("/nix/store").expect("a store directory");
        assert_eq!(
            source.reference(&store),
            "path:/nix/store/7rjj9cplsvfl4kd7m3iil3fm0hbjxzk1-a%2Bb%3Fc%3Dd?lastModified=7\
             &narHash=sha256-%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F\
             %2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F%2F8%3D&dir=hosts/a%20b%23%3F&rev=ab%26dir%3D%2F&revCount=3"
        );
    }
}

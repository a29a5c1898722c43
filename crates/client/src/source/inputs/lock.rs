//! flake.lock, as far as it says where inputs come from. Pure.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use fleet_nix::NarHash;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Nodes of one lock file: a hundred times what is seen.
const MAX_NODES: usize = 10_000;
/// Follows on the way to one input.
const MAX_FOLLOWS: usize = 1_000;

/// A lock file.
#[derive(Clone, Debug)]
pub struct Lock {
    root: String,
    nodes: BTreeMap<String, Node>,
}

/// One locked input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedInput {
    /// From the root flake to it, with slashes.
    pub name: String,
    /// Of its tree, where the lock says it.
    pub nar_hash: Option<NarHash>,
    /// Of its store path, if it has one of its own.
    pub store_name: Option<String>,
    /// Where it comes from.
    pub place: Place,
}

/// Where an input comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Below the tree of the flake that names it.
    Relative,
    /// A path of the machine it was locked on.
    Directory(PathBuf),
    /// A git repository.
    Git(GitInput),
    /// What only Nix can fetch.
    Other {
        /// As in the lock file.
        kind: String,
        /// For people.
        url: String,
    },
}

/// A tree of a git repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitInput {
    /// Where it is.
    pub url: GitUrl,
    /// The commit; a work tree without.
    pub rev: Option<String>,
    /// Where the commit was found.
    pub reference: Option<String>,
    /// With the trees of submodules.
    pub submodules: bool,
    /// With the files of Git LFS.
    pub lfs: bool,
    /// Without what `.gitattributes` keeps out of exports.
    pub export_ignore: bool,
}

/// Where a git repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GitUrl {
    /// On this machine.
    File(PathBuf),
    /// Behind SSH, as git understands it.
    Ssh(String),
    /// Elsewhere.
    Remote(String),
}

/// Why a lock file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It is no JSON, or lacks what every lock file has.
    #[error("flake.lock cannot be read")]
    Malformed(#[from] serde_json::Error),
    /// Of a newer or a very old Nix.
    #[error("flake.lock has version {0}, and only 6 and 7 are known here")]
    Version(u64),
    /// More than any flake has.
    #[error("flake.lock has more than {MAX_NODES} inputs")]
    TooMany,
    /// It contradicts itself.
    #[error("flake.lock is broken: {0}")]
    Broken(String),
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

#[derive(Deserialize)]
struct File {
    root: String,
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Debug, Deserialize)]
struct Node {
    #[serde(default)]
    inputs: BTreeMap<String, Edge>,
    locked: Option<Map<String, Value>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Edge {
    Node(String),
    Follows(Vec<String>),
}

impl Lock {
    /// Reads a lock file.
    pub fn parse(content: &[u8]) -> Result<Self, LockError> {
        let Version { version } = serde_json::from_slice(content)?;
        if !matches!(version, 6 | 7) {
            return Err(LockError::Version(version));
        }
        let File { root, nodes } = serde_json::from_slice(content)?;
        if nodes.len() > MAX_NODES {
            return Err(LockError::TooMany);
        }
        let mut named = nodes.values().flat_map(|node| node.inputs.values());
        let dangling = named.find_map(|edge| match edge {
            Edge::Node(key) if !nodes.contains_key(key) => Some(key),
            _ => None,
        });
        match dangling.or((!nodes.contains_key(&root)).then_some(&root)) {
            Some(key) => Err(LockError::Broken(format!("there is no node `{key}`"))),
            None => Ok(Self { root, nodes }),
        }
    }

    /// Every input that the flake can reach, each once, by its shortest name.
    pub fn inputs(&self) -> Result<Vec<LockedInput>, LockError> {
        let mut seen = HashSet::from([&self.root]);
        let mut waiting = VecDeque::from([(String::new(), &self.root)]);
        let mut inputs = Vec::new();
        while let Some((name, key)) = waiting.pop_front() {
            let Some(node) = self.nodes.get(key) else { continue };
            if key != &self.root {
                inputs.push(locked(name.clone(), node)?);
            }
            for (input, edge) in &node.inputs {
                if let Edge::Node(child) = edge
                    && seen.insert(child)
                {
                    let name = if name.is_empty() { input.clone() } else { format!("{name}/{input}") };
                    waiting.push_back((name, child));
                }
            }
        }
        Ok(inputs)
    }

    /// The input that somebody names, through whatever it follows; nothing when there is none.
    pub fn find(&self, name: &str) -> Result<Option<LockedInput>, LockError> {
        let mut path: VecDeque<&str> = name.split('/').collect();
        let mut key = &self.root;
        let mut followed = 0;
        while let Some(part) = path.pop_front() {
            match self.nodes.get(key).and_then(|node| node.inputs.get(part)) {
                None => return Ok(None),
                Some(Edge::Node(child)) => key = child,
                Some(Edge::Follows(other)) => {
                    followed += 1;
                    if followed > MAX_FOLLOWS {
                        return Err(LockError::Broken(format!("`{name}` follows itself")));
                    }
                    key = &self.root;
                    other.iter().rev().for_each(|part| path.push_front(part));
                }
            }
        }
        // Following the root is following the flake itself, which comes along anyway.
        let node = self.nodes.get(key).filter(|_| key != &self.root);
        node.map(|node| locked(name.to_owned(), node)).transpose()
    }

    /// The flake's own inputs.
    pub fn names(&self) -> Vec<&str> {
        self.nodes
            .get(&self.root)
            .map(|root| root.inputs.keys().map(String::as_str).collect())
            .unwrap_or_default()
    }
}

fn locked(name: String, node: &Node) -> Result<LockedInput, LockError> {
    let broken = |what: &str| LockError::Broken(format!("input `{name}` has {what}"));
    let attributes = node.locked.as_ref().ok_or_else(|| broken("not been locked"))?;
    let text = |key: &str| attributes.get(key).and_then(Value::as_str);
    let is_set = |key: &str| attributes.get(key).and_then(Value::as_bool).unwrap_or(false);
    let kind = text("type").ok_or_else(|| broken("no type"))?;
    let nar_hash = text("narHash").filter(|hash| !hash.is_empty()).map(nar_hash);
    let nar_hash = nar_hash.map(|hash| hash.ok_or_else(|| broken("a bad narHash"))).transpose()?;
    let rev = text("rev").map(str::to_owned);
    if rev.as_ref().is_some_and(|rev| !is_rev(rev)) && kind == "git" {
        return Err(broken("a bad rev"));
    }
    let place = match kind {
        "path" => match text("path").ok_or_else(|| broken("no path"))? {
            path if path.starts_with('/') => Place::Directory(path.into()),
            _ => Place::Relative,
        },
        "git" => Place::Git(GitInput {
            url: GitUrl::parse(text("url").ok_or_else(|| broken("no url"))?),
            rev,
            reference: text("ref").map(str::to_owned),
            submodules: is_set("submodules"),
            lfs: is_set("lfs"),
            export_ignore: is_set("exportIgnore"),
        }),
        _ => Place::Other {
            kind: kind.to_owned(),
            url: text("url").or(text("repo")).or(text("id")).unwrap_or_default().to_owned(),
        },
    };
    let store_name = text("name").filter(|name| *name != "source").map(str::to_owned);
    Ok(LockedInput { name, nar_hash, store_name, place })
}

/// Old versions of Nix left the padding out.
fn nar_hash(text: &str) -> Option<NarHash> {
    text.parse().or_else(|_| format!("{text}=").parse()).ok()
}

fn is_rev(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl GitUrl {
    /// As lock files write it.
    fn parse(url: &str) -> Self {
        let url = url.strip_prefix("git+").unwrap_or(url);
        // What selects a flake within the tree is no part of the repository's address.
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let path = match address.strip_prefix("file:") {
            Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
            None if address.starts_with('/') => return Self::File(address.into()),
            None => "",
        };
        if path.starts_with('/')
            && let Some(path) = decoded(path)
        {
            return Self::File(path);
        }
        let kept: Vec<&str> =
            query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("dir=")).collect();
        let whole =
            if kept.is_empty() { address.to_owned() } else { format!("{address}?{}", kept.join("&")) };
        let scp_like = !address.contains("://") && address.contains('@') && address.contains(':');
        if address.starts_with("ssh://") || scp_like { Self::Ssh(whole) } else { Self::Remote(whole) }
    }
}

impl Default for GitUrl {
    fn default() -> Self {
        Self::Remote(String::new())
    }
}

fn decoded(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' {
            let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else {
            byte
        };
        bytes.push(byte);
    }
    (!bytes.contains(&0)).then(|| OsString::from_vec(bytes).into())
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Ssh(url) | Self::Remote(url) => f.write_str(url),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relative => f.write_str("the flake itself"),
            Self::Directory(path) => path.display().fmt(f),
            Self::Git(git) => git.url.fmt(f),
            Self::Other { kind, url } => write!(f, "{kind}:{url}"),
        }
    }
}

#[cfg(test)]
mod tests;

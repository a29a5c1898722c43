//! Locked inputs that whoever evaluates cannot fetch: found in flake.lock, packed as Nix would, and taken along.
//!
//! `lock` reads the lock file, `choose` says which inputs these are, `tree` packs one, with `fetch` for repositories
//! elsewhere and `export` for what they leave out; `known` remembers the chunks of those packed before, and `carried`
//! holds what a run takes along. Nothing leaves this machine whose NAR hash is not the one of the lock file: so a lock
//! file cannot make us send what its author does not know already.

mod carried;
mod choose;
mod export;
mod fetch;
mod known;
mod lock;
mod tree;

pub use carried::{Carried, CarriedTree, PackedTree, Taken};
pub use choose::{Reach, choose};
pub use lock::{GitInput, GitUrl, Lock, LockError, LockedInput, Place};
pub use tree::{InputError, Places};

//! A flake on this machine becomes a source: its tree as a NAR, and the git facts Nix sees.
//!
//! `flake_ref` reads what the user typed, `locate` finds the tree, `tree` lists its content, `pack` writes the
//! NAR into a `spool`. `inputs` takes along what its lock file names and workers cannot fetch. Nothing here evaluates
//! anything or talks to a daemon.

mod caveat;
mod directory;
mod flake_ref;
mod git;
pub mod inputs;
mod locate;
mod objects;
mod pack;
mod packed;
mod spool;
mod tree;
mod work_tree;

pub use flake_ref::{FlakeRef, FlakeRefError, Fragment, Scheme};
pub use git::{Git, GitError};
pub use locate::{LocateError, Location};
pub use pack::PackError;
pub use packed::{PackedSource, SourceError, branch, pack_base, pack_current};
pub use spool::{SpoolError, sweep_spools};

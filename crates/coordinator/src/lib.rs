//! Sockets, journal and logs around the core: the program that coordinates a fleet.
//!
//! [`Coordinator::start`] opens the state directory and spawns the shell, the one owner of the
//! [`Fleet`](fleet_core::Fleet). The services of `rpc` only translate: requests become inputs of the shell, its
//! feeds become streams. There is no Nix here: nothing is evaluated or built.

mod access;
mod attempts;
mod cache;
mod collect;
pub mod config;
mod derivations;
mod feed;
mod infos;
mod internal_key;
mod kept;
mod log_index;
mod log_search;
mod logs;
pub mod maintenance;
mod paths;
mod rpc;
mod server;
mod shell;

pub use cache::KeyError;
pub use config::Config;
pub use internal_key::InternalKeyError;
pub use log_index::IndexError;
pub use server::{Coordinator, ListenError, MaterialError, Program, ProgramError, ServeError, StartError};
pub use shell::RestoreFailed;

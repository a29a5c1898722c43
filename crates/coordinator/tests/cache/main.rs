//! The binary cache of a running coordinator: what it answers whom, over both kinds of HTTP, and what Nix makes of it.

mod access;
mod asked;
mod client;
mod damage;
mod filled;
mod keys;
mod nix;
#[path = "../server/running.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod running;
mod slow;

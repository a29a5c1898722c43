//! Store paths from worker to worker, without a detour over the coordinator: [`Server`] hands out what this machine has,
//! [`Fetcher`] brings what others have.
//!
//! A peer supplies bytes and nothing else. What a path is, and that this machine may have it from that one, is the
//! coordinator's word: path infos signed with its internal key, and tickets. Needs no coordinator by itself: whoever has
//! infos, holders and tickets may give them through [`Locate`].

mod dial;
mod reading;
mod server;
mod service;
mod ticket;

pub use crate::transfer::fetch::{FetchError, Fetched, Fetcher, FetcherConfig, Locate, Located, LocatedPath};
pub use crate::transfer::manifest_cache::ManifestCache;
pub(crate) use dial::Holders;
pub use server::{Gone, Keys, PeerConfig, Server, ServerError};
pub use ticket::{TICKET_PURPOSE, TicketError};

/// Largest frame of HTTP/2: a chunk is a few of them instead of dozens.
const FRAME: u32 = 256 << 10;
/// What may be under way in one stream and one connection before its receiver has taken it.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

//! An enrolled worker that means harm, with a real certificate, over TLS: each thing it tries is refused with words
//! that say why, and nothing of it is served by the cache.

mod chunks;
#[path = "../cache/client.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod client;
mod publishing;
mod reading;
mod registering;
mod reporting;
#[path = "../server/running.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod running;
#[path = "../sessions/scripted.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod scripted;
mod vouching;
mod world;

//! A very large archive goes all the ways that bytes go through the coordinator: put, registered, published, fetched by
//! a worker, downloaded. The coordinator's memory does not grow with it.
//!
//! `FLEET_TEST_LARGE_GIB` asks for an archive of another size, which may need longer than `cargo nextest` lets a test
//! run; `cargo test -p fleet-coordinator --test large -- --nocapture` waits, and shows how much memory was needed.

mod archive;
#[path = "../cache/client.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod client;
mod memory;
#[path = "../server/running.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod running;
#[path = "../sessions/scripted.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod scripted;
mod transfer;

use crate::archive::Archive;
use crate::memory::Memory;
use crate::running::Running;
use crate::scripted::Step;
use crate::transfer::{Publisher, Uploader, download};

const GIB: u64 = 1 << 30;

fn size() -> u64 {
    let asked = std::env::var("FLEET_TEST_LARGE_GIB").ok();
    asked.map_or(1, |asked| asked.parse::<u64>().expect("FLEET_TEST_LARGE_GIB is a number")) * GIB
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_very_large_archive_passes_through_in_flat_memory() {
    let running = Running::start_with("[cache]\npublic = true\n", |_| {});
    let small = Step::new("small", &[]);
    let large = Step::new("large", &[&small]);
    let uploader = Uploader::enrol(&running).await;

    // Whatever the first of everything takes, like the pages of the program itself, a large one does not take again.
    let archive = Archive::begin(4 << 20, &[&small.output]);
    let small_one = uploader.put(archive, &small.output, &[&small.output]).await;
    let memory = Memory::of(&running).await;
    let archive = Archive::begin(size(), &[&small.output, &large.output]);
    let references = [&*small.output, &*large.output];
    let large_one = memory.during("put", uploader.put(archive, &large.output, &references)).await;

    let publisher = Publisher::build(&running, &uploader, [(&small, &small_one), (&large, &large_one)]).await;
    let registering = Box::pin(publisher.register([&small_one, &large_one]));
    memory.during("register", registering).await;
    memory.during("locate", publisher.locate(&large_one)).await;
    memory.during("get", publisher.fetch(&large_one)).await;
    memory.during("publish", publisher.publish(&running)).await;
    memory.during("download", download(&running, &large_one)).await;
}

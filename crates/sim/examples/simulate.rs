//! Simulates many seeds, or one before your eyes.
//!
//!     cargo run -p fleet-sim --release --example simulate -- FIRST COUNT
//!     cargo run -p fleet-sim --example simulate -- SEED

use std::fmt::Write as _;
use std::io::{Error, Write, stdout};

use fleet_core::{Fleet, FleetConfig, Record, RestoreError};
use fleet_sim::{Summary, simulate, watch};

fn main() -> Result<(), Error> {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse().map_err(Error::other));
    let first: u64 = numbers.next().transpose()?.unwrap_or(0);
    match numbers.next().transpose()? {
        Some(count) => many(first, count),
        None => one(first),
    }
}

fn origin(config: FleetConfig, records: Vec<Record>) -> Result<Fleet, RestoreError> {
    Fleet::restore(config, records)
}

fn many(first: u64, count: u64) -> Result<(), Error> {
    let mut total = Summary::default();
    for seed in first..first.saturating_add(count) {
        total += simulate(seed, &origin).map_err(Error::other)?;
    }
    writeln!(stdout(), "{count} seeds from {first}: {total:?}")
}

fn one(seed: u64) -> Result<(), Error> {
    let mut told = String::new();
    let result = watch(seed, &origin, &mut |now, event, effects| {
        // A string takes everything.
        let _ = writeln!(told, "{now} {event:?}");
        for effect in effects {
            let _ = writeln!(told, "    {effect:?}");
        }
    });
    stdout().write_all(told.as_bytes())?;
    writeln!(stdout(), "{:?}", result.map_err(Error::other)?)
}

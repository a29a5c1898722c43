//! Workers, as rows, as a page and as JSON.

use fleet_wire::v1;
use serde::Serialize;

use super::figure::{bytes, until};
use super::table::{Cell, Table};
use crate::progress::{Line, Style, duration, visible};

/// Names of steps that a row has room for.
const MAX_BUILDING: usize = 3;

/// One worker, for programs.
#[derive(Debug, Serialize)]
pub struct WorkerJson<'a> {
    name: &'a str,
    state: &'a str,
    reason: &'a str,
    systems: &'a [String],
    features: &'a [String],
    mandatory_features: &'a [String],
    slots: u32,
    eval_slots: u32,
    leases: u32,
    evals: u32,
    building: &'a [String],
    speed: f64,
    nix_version: &'a str,
    nix_lane: &'a str,
    fleet_version: &'a str,
    boot_id: &'a str,
    heard_ms_ago: u64,
    certificate_until_unix_s: u64,
    load: Option<LoadJson<'a>>,
}

#[derive(Debug, Serialize)]
struct LoadJson<'a> {
    load1: f64,
    cpu_pressure: f64,
    memory_pressure: f64,
    io_pressure: f64,
    memory_total: u64,
    memory_available: u64,
    store_total: u64,
    store_free: u64,
    build_total: u64,
    build_free: u64,
    spooled: u64,
    unwell: &'a str,
}

impl<'a> WorkerJson<'a> {
    /// As it was told.
    pub fn of(worker: &'a v1::WorkerStatus) -> Self {
        Self {
            name: &worker.name,
            state: &worker.state,
            reason: &worker.reason,
            systems: &worker.systems,
            features: &worker.features,
            mandatory_features: &worker.mandatory_features,
            slots: worker.slots,
            eval_slots: worker.eval_slots,
            leases: worker.leases,
            evals: worker.evals,
            building: &worker.building,
            speed: worker.speed,
            nix_version: &worker.nix_version,
            nix_lane: &worker.nix_lane,
            fleet_version: &worker.fleet_version,
            boot_id: &worker.boot_id,
            heard_ms_ago: worker.heard_ms_ago,
            certificate_until_unix_s: worker.certificate_until,
            load: worker.load.as_ref().map(|load| LoadJson {
                load1: load.load1,
                cpu_pressure: load.cpu_pressure,
                memory_pressure: load.memory_pressure,
                io_pressure: load.io_pressure,
                memory_total: load.memory_total,
                memory_available: load.memory_available,
                store_total: load.store_total,
                store_free: load.store_free,
                build_total: load.build_total,
                build_free: load.build_free,
                spooled: load.spooled,
                unwell: &load.unwell,
            }),
        }
    }
}

/// Workers, one a row.
pub fn worker_table(workers: &[v1::WorkerStatus]) -> Table {
    let mut table =
        Table::new(&["WORKER", "STATE", "SYSTEMS", "BUILDS", "EVALS", "LOAD", "HEARD", "BUILDING", "REASON"]);
    for worker in workers {
        let is_connected = worker.slots > 0 || worker.eval_slots > 0;
        let of = |used: u32, slots: u32| if is_connected { format!("{used}/{slots}") } else { String::new() };
        let load = worker.load.as_ref().map(|load| format!("{:.1}", load.load1));
        table.row(vec![
            Cell::text(&worker.name),
            state(worker),
            Cell::text(&worker.systems.join(" ")),
            Cell::figure(of(worker.leases, worker.slots)),
            Cell::figure(of(worker.evals, worker.eval_slots)),
            Cell::figure(load.unwrap_or_default()),
            Cell::text(&heard(worker)),
            Cell::text(&building(&worker.building)),
            Cell::text(reason(worker)),
        ]);
    }
    table
}

/// One worker, a line a fact.
pub fn worker_page(worker: &v1::WorkerStatus, now_ms: u64) -> Vec<Line> {
    let mut facts: Vec<(&str, String)> = vec![
        ("name", visible(&worker.name)),
        ("state", visible(&worker.state)),
        ("reason", visible(reason(worker))),
        ("systems", visible(&worker.systems.join(" "))),
        ("features", visible(&worker.features.join(" "))),
        ("only for", visible(&worker.mandatory_features.join(" "))),
        ("builds", format!("{} of {}", worker.leases, worker.slots)),
        ("evals", format!("{} of {}", worker.evals, worker.eval_slots)),
        ("building", visible(&worker.building.join(" "))),
        ("nix", visible(format!("{} {}", worker.nix_lane, worker.nix_version).trim())),
        ("fleet-worker", visible(&worker.fleet_version)),
        ("heard", heard(worker)),
        ("certificate", certificate(worker, now_ms)),
    ];
    if let Some(load) = &worker.load {
        let share = |free: u64, total: u64| format!("{} free of {}", bytes(free), bytes(total));
        let known = |total: u64, text: String| if total == 0 { String::new() } else { text };
        facts.extend([
            ("load", format!("{:.1}", load.load1)),
            (
                "pressure",
                format!(
                    "cpu {:.0} %, memory {:.0} %, io {:.0} %",
                    load.cpu_pressure, load.memory_pressure, load.io_pressure
                ),
            ),
            ("memory", known(load.memory_total, share(load.memory_available, load.memory_total))),
            ("store", known(load.store_total, share(load.store_free, load.store_total))),
            ("build dir", known(load.build_total, share(load.build_free, load.build_total))),
            ("spooled", known(load.spooled, bytes(load.spooled))),
        ]);
    }
    let facts = facts.into_iter().filter(|(_, fact)| !fact.is_empty());
    facts
        .map(|(name, fact)| Line::new().and(Style::Dim, format!("{name:>12}  ")).and(Style::Plain, fact))
        .collect()
}

fn state(worker: &v1::WorkerStatus) -> Cell {
    let style = match worker.state.as_str() {
        "connected" => Style::Good,
        "locked" | "revoked" | "quarantined" => Style::Bad,
        _ => Style::Notable,
    };
    Cell::text(&worker.state).styled(style)
}

/// What keeps it from working: what was ordered, or what it says itself.
fn reason(worker: &v1::WorkerStatus) -> &str {
    let unwell = worker.load.as_ref().map_or("", |load| &load.unwell);
    if worker.reason.is_empty() { unwell } else { &worker.reason }
}

fn heard(worker: &v1::WorkerStatus) -> String {
    match worker.heard_ms_ago {
        0 => String::new(),
        ms => format!("{} ago", duration(ms)),
    }
}

fn certificate(worker: &v1::WorkerStatus, now_ms: u64) -> String {
    match until(worker.certificate_until, now_ms) {
        text if text.is_empty() || text == "expired" => text,
        text => format!("ends {text}"),
    }
}

fn building(names: &[String]) -> String {
    let shown = names.iter().take(MAX_BUILDING).map(String::as_str).collect::<Vec<_>>().join(" ");
    if names.len() > MAX_BUILDING { format!("{shown} +{}", names.len() - MAX_BUILDING) } else { shown }
}

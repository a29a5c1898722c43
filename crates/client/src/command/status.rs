//! `fleetctl status`: live runs, the queue and the workers, once or again and again.

use std::io::IsTerminal;
use std::time::Duration;

use fleet_wire::v1;
use serde::Serialize;

use super::coordinator::Asking;
use super::session;
use crate::args::{GlobalArgs, RunArgs, StatusArgs};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::listing::{self, RunJson, WorkerJson};
use crate::output;
use crate::progress::{Line, Style, visible};

const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Clears the screen and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Serialize)]
struct StatusJson<'a> {
    version: &'a str,
    read_only: &'a str,
    queue: QueueJson,
    runs: Vec<RunJson<'a>>,
    workers: Vec<WorkerJson<'a>>,
}

#[derive(Serialize)]
struct QueueJson {
    waiting: u64,
    ready: u64,
    delayed: u64,
    leased: u64,
    evals_waiting: u64,
}

/// Prints it.
pub async fn execute(global: &GlobalArgs, args: &StatusArgs) -> Result<Exit, CliError> {
    let asking = Asking::begin(global, &RunArgs::default(), "status")?;
    if args.watch && !args.json && !std::io::stdout().is_terminal() {
        return Err(CliError::new("--watch redraws a terminal, and standard output is none")
            .next("Add --json to get one line every two seconds, or leave --watch out"));
    }
    if !args.watch {
        show(&asking, args).await?;
        return Ok(Exit::Success);
    }
    let mut signals = session::signals()?;
    loop {
        tokio::select! {
            shown = show(&asking, args) => shown?,
            _ = signals.next() => return Ok(Exit::Success),
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN_AFTER) => {}
            _ = signals.next() => return Ok(Exit::Success),
        }
    }
}

async fn show(asking: &Asking, args: &StatusArgs) -> Result<(), CliError> {
    let reply = asking.connection.runs().status(v1::StatusRequest {}).await;
    let status = reply.map_err(|status| CliError::of_status("the status is not told", &status))?.into_inner();
    if args.json {
        return output::print(&json(&status));
    }
    let screen = asking.screen();
    let text = screen.text(&page(&status, listing::unix_ms(), screen.columns));
    output::print(&if args.watch { CLEAR.to_owned() + &text } else { text })
}

fn json(status: &v1::StatusReply) -> String {
    listing::document(StatusJson {
        version: &status.version,
        read_only: &status.read_only,
        queue: QueueJson {
            waiting: status.waiting,
            ready: status.ready,
            delayed: status.delayed,
            leased: status.leased,
            evals_waiting: status.evals_waiting,
        },
        runs: status.live.iter().map(RunJson::of).collect(),
        workers: status.workers.iter().map(WorkerJson::of).collect(),
    })
}

fn page(status: &v1::StatusReply, now_ms: u64, columns: Option<usize>) -> Vec<Line> {
    let mut lines = vec![Line::new().and(Style::Plain, format!("coordinator {}", visible(&status.version)))];
    if !status.read_only.is_empty() {
        let text = format!("takes no new runs: {}", visible(&status.read_only));
        lines.push(Line::new().and(Style::Bad, text));
    }
    lines.push(Line::new().and(Style::Plain, queue(status)));
    if !status.live.is_empty() {
        lines.push(Line::new());
        lines.extend(listing::live_table(&status.live, now_ms).lines(columns));
    }
    lines.push(Line::new());
    if status.workers.is_empty() {
        lines.push(
            Line::new().and(Style::Notable, "no worker has joined; `fleetctl worker token` lets one in"),
        );
    } else {
        lines.extend(listing::worker_table(&status.workers).lines(columns));
    }
    lines.into_iter().map(|line| columns.map_or(line.clone(), |columns| line.clipped(columns))).collect()
}

/// Only what there is.
fn queue(status: &v1::StatusReply) -> String {
    let parts = [
        (status.leased, "being built"),
        (status.ready, "ready"),
        (status.waiting, "waiting for others"),
        (status.delayed, "resting before another attempt"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let steps = if parts.is_empty() { "no steps".to_owned() } else { format!("steps: {}", parts.join(", ")) };
    match status.evals_waiting {
        0 => steps,
        evals => format!("{steps}; evaluations waiting: {evals}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> v1::StatusReply {
        let worker = |name: &str, state: &str, reason: &str| v1::WorkerStatus {
            name: name.to_owned(),
            state: state.to_owned(),
            reason: reason.to_owned(),
            systems: vec!["x86_64-linux".to_owned()],
            slots: 4,
            eval_slots: 2,
            leases: 1,
            heard_ms_ago: 3_000,
            building: vec!["linux-6.18".to_owned()],
            load: Some(v1::Heartbeat { load1: 3.21, ..Default::default() }),
            ..Default::default()
        };
        v1::StatusReply {
            live: vec![v1::RunSummary {
                run: "run-9".to_owned(),
                client: "alice".to_owned(),
                submitted_unix_ms: 1_000,
                targets: 46,
                settled: 12,
                counts: Some(v1::Counts { wanted: 1413, built: 312, running: 2, ..Default::default() }),
                ..Default::default()
            }],
            workers: vec![
                worker("b1", "connected", ""),
                worker("b2", "quarantined", "5 steps in a row were lost\u{1b}]0;x\u{7} here"),
                v1::WorkerStatus {
                    name: "mac1".to_owned(),
                    state: "enrolled".to_owned(),
                    ..Default::default()
                },
            ],
            waiting: 1_000,
            ready: 99,
            leased: 2,
            evals_waiting: 3,
            version: "0.1.0".to_owned(),
            ..Default::default()
        }
    }

    fn text(status: &v1::StatusReply, columns: Option<usize>) -> String {
        let lines = page(status, 62_000, columns);
        lines.iter().map(|line| line.text().trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn the_status_is_told_at_a_glance() {
        insta::assert_snapshot!(text(&status(), None), @r"
    coordinator 0.1.0
    steps: 2 being built, 99 ready, 1000 waiting for others; evaluations waiting: 3

    RUN    BY     FOR       STEPS  BUILDING  STATE
    run-9  alice  1m01s  312/1413         2  running, 12 of 46 done

    WORKER  STATE        SYSTEMS       BUILDS  EVALS  LOAD  HEARD   BUILDING    REASON
    b1      connected    x86_64-linux     1/4    0/2   3.2  3s ago  linux-6.18
    b2      quarantined  x86_64-linux     1/4    0/2   3.2  3s ago  linux-6.18  5 steps in a row were lost\u{1b}]0;x\u{7} here
    mac1    enrolled
    ");
        insta::assert_snapshot!(text(&status(), Some(60)), @r"
    coordinator 0.1.0
    steps: 2 being built, 99 ready, 1000 waiting for others; ev…

    RUN    BY     FOR       STEPS  BUILDING  STATE
    run-9  alice  1m01s  312/1413         2  running, 12 of 46 …

    WORKER  STATE        SYSTEMS       BUILDS  EVALS  LOAD  HEA…
    b1      connected    x86_64-linux     1/4    0/2   3.2  3s …
    b2      quarantined  x86_64-linux     1/4    0/2   3.2  3s …
    mac1    enrolled                                           …
    ");
        let empty = v1::StatusReply { read_only: "the disk is full".to_owned(), ..Default::default() };
        insta::assert_snapshot!(text(&empty, None), @r"
    coordinator
    takes no new runs: the disk is full
    no steps

    no worker has joined; `fleetctl worker token` lets one in
    ");
    }

    #[test]
    fn programs_get_one_line_with_everything() {
        let text = json(&status());
        assert_eq!(text.matches('\n').count(), 1);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["schema"], 1);
        assert_eq!(json["workers"][1]["reason"], "5 steps in a row were lost\u{1b}]0;x\u{7} here");
        assert_eq!(json["runs"][0]["steps"]["running"], 2);
        assert_eq!(json["queue"]["ready"], 99);
    }
}

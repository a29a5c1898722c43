//! `fleetctl show`: one run with its targets.

use fleet_wire::v1::{self, TargetStatus};
use serde::Serialize;

use super::coordinator::Asking;
use crate::args::{GlobalArgs, RunArgs, ShowArgs};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::failure::one_sentence;
use crate::listing::{self, Cell, RunJson, Table, TargetJson};
use crate::output;
use crate::progress::{Line, Style};

#[derive(Serialize)]
struct ShowJson<'a> {
    #[serde(flatten)]
    summary: RunJson<'a>,
    hosts: Vec<TargetJson<'a>>,
}

/// Prints it.
pub async fn execute(global: &GlobalArgs, args: &ShowArgs) -> Result<Exit, CliError> {
    let asking = Asking::begin(global, &RunArgs::default(), "show")?;
    let reply = asking.connection.runs().show(v1::ShowRunRequest { run: args.run.clone() }).await;
    let detail =
        reply.map_err(|status| CliError::of_run_request("the run is not shown", &args.run, &status))?;
    let detail = detail.into_inner();
    let summary = detail.summary.clone().unwrap_or_default();
    if args.json {
        let hosts = detail.targets.iter().map(TargetJson::of).collect();
        output::print(&listing::document(ShowJson { summary: RunJson::of(&summary), hosts }))?;
        return Ok(Exit::Success);
    }
    let screen = asking.screen();
    screen.print(&page(&summary, &detail, listing::unix_ms(), screen.columns))?;
    Ok(Exit::Success)
}

fn page(summary: &v1::RunSummary, detail: &v1::RunDetail, now_ms: u64, columns: Option<usize>) -> Vec<Line> {
    let mut lines = listing::run_table(std::slice::from_ref(summary), now_ms).lines(columns);
    if detail.targets.is_empty() {
        return lines;
    }
    lines.push(Line::new());
    let mut table = Table::new(&["HOST", "STATE", "RESULT"]);
    for target in &detail.targets {
        table.row(vec![Cell::text(&listing::host_label(target)), state(target), result(target)]);
    }
    lines.extend(table.lines(columns));
    lines
}

fn state(target: &v1::TargetDetail) -> Cell {
    match target.status() {
        TargetStatus::Unspecified => Cell::text(&target.stage).styled(Style::Busy),
        status @ (TargetStatus::EvalFailed | TargetStatus::BuildFailed) => {
            Cell::text(listing::status_word(status)).styled(Style::Bad)
        }
        status @ TargetStatus::Cancelled => Cell::text(listing::status_word(status)).styled(Style::Notable),
        status => Cell::text(listing::status_word(status)).styled(Style::Good),
    }
}

fn result(target: &v1::TargetDetail) -> Cell {
    match &target.failure {
        Some(failure) => Cell::text(&one_sentence(&failure.cause)),
        None => Cell::text(&target.toplevel),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_shown_with_its_hosts() {
        let summary = v1::RunSummary {
            run: "run-7".to_owned(),
            client: "ci".to_owned(),
            submitted_unix_ms: 1_000,
            targets: 2,
            settled: 1,
            failed: 1,
            counts: Some(v1::Counts { wanted: 40, built: 11, failed: 1, ..Default::default() }),
            finished: None,
        };
        let target = |name: &str, stage: &str, cause: Option<&str>| v1::TargetDetail {
            host: Some(v1::Host { name: name.to_owned(), kind: v1::HostKind::Nixos.into() }),
            side: v1::Side::After.into(),
            stage: stage.to_owned(),
            status: cause.map_or(TargetStatus::Unspecified, |_| TargetStatus::BuildFailed).into(),
            failure: cause.map(|cause| v1::Failure { cause: cause.to_owned(), ..Default::default() }),
            ..Default::default()
        };
        let targets = vec![
            target(
                "web\u{1b}[2J",
                "settled",
                Some("builder for '/nix/store/x.drv' failed with exit code 3;\nlog"),
            ),
            target("db", "building", None),
        ];
        let detail = v1::RunDetail { summary: None, targets, request: None };
        let text = |columns| {
            let lines = page(&summary, &detail, 62_000, columns);
            lines.iter().map(|line| line.text().trim_end().to_owned() + "\n").collect::<String>()
        };
        insta::assert_snapshot!(text(None), @r"
    RUN    BY  SUBMITTED  TARGETS  STEPS  STATE
    run-7  ci  1m01s ago        2  12/40  running, 1 of 2 done, 1 failed

    HOST          STATE         RESULT
    web\u{1b}[2J  build_failed  builder failed with exit code 3
    db            building
    ");
        let json = listing::document(ShowJson {
            summary: RunJson::of(&summary),
            hosts: detail.targets.iter().map(TargetJson::of).collect(),
        });
        insta::assert_snapshot!(json, @r#"{"schema":1,"run":"run-7","client":"ci","submitted_unix_ms":1000,"state":"running","targets":2,"settled":1,"failed":1,"steps":{"wanted":40,"built":11,"substituted":0,"cached":0,"failed":1,"deduplicated":0,"running":0,"cancelled":0},"hosts":[{"host":"web\u001b[2J","kind":"nixos","side":"after","stage":"settled","status":"build_failed","drv":null,"toplevel":null,"failure":{"code":"","cause":"builder for '/nix/store/x.drv' failed with exit code 3;\nlog","detail":"","drv":null}},{"host":"db","kind":"nixos","side":"after","stage":"building","status":null,"drv":null,"toplevel":null}]}"#);
    }
}

//! `fleetctl attach`: watch a run of the coordinator to its end, as if we had submitted it ourselves.

use fleet_diff::SideLabel;
use fleet_wire::v1::{self, Side};

use super::conclude::conclude;
use super::coordinator::Asking;
use super::session;
use crate::args::{AttachArgs, GlobalArgs, RunArgs};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::interruption::Manner;
use crate::options::ReportOptions;
use crate::output;
use crate::report::Sides;
use crate::run::{self, There};

/// Runs that are looked through for one that has not ended.
const LOOKED_AT: u32 = 1000;

/// Shows its progress, also that which has been, and prints its result.
pub async fn execute(global: &GlobalArgs, args: &AttachArgs) -> Result<Exit, CliError> {
    let as_run = RunArgs { report: args.report.clone(), follow: args.follow.clone(), ..RunArgs::default() };
    let asking = Asking::begin(global, &as_run, "attach")?;
    let run = match &args.run {
        Some(run) => run.clone(),
        None => newest_live(&asking).await?,
    };
    let detail = detail(&asking, &run).await?;
    let request = detail.request.clone().unwrap_or_default();
    let sides = sides(&detail, &request);
    let options = ReportOptions::resolve(&args.report, &asking.settings, sides.before.is_some())?;
    for output in &options.outputs {
        output::check_writable(&output.file)?;
    }
    let mut signals = session::signals()?;
    let mut display = session::display(global, &asking.settings, &asking.environment);
    let there = There {
        connection: asking.connection,
        reconnect_for: asking.settings.remote.reconnect_for.value,
        manner: Manner::Attached {
            ask: session::can_ask(&asking.environment) && !args.follow.detach_on_interrupt,
        },
        detach: false,
    };
    let logs = asking.settings.print_build_logs.value;
    let ended = run::watch_run(run, sides, logs, &there, &mut display, &mut signals).await;
    display.finish();
    conclude(&options, &request.selection.unwrap_or_default(), ended?)
}

async fn newest_live(asking: &Asking) -> Result<String, CliError> {
    let request = v1::ListRunsRequest { limit: LOOKED_AT };
    let reply = asking.connection.runs().list(request).await;
    let reply = reply.map_err(|status| CliError::of_status("the runs are not listed", &status))?;
    let live = reply.into_inner().runs.into_iter().find(|run| run.finished.is_none());
    live.map(|run| run.run).ok_or_else(|| {
        CliError::new("no run goes on")
            .next("`fleetctl runs` lists those that have ended; name one to see its result again")
    })
}

async fn detail(asking: &Asking, run: &str) -> Result<v1::RunDetail, CliError> {
    let reply = asking.connection.runs().show(v1::ShowRunRequest { run: run.to_owned() }).await;
    Ok(reply.map_err(|status| CliError::of_run_request("the run is not shown", run, &status))?.into_inner())
}

/// What was compared, as whoever submitted it said.
fn sides(detail: &v1::RunDetail, request: &v1::SubmitRequest) -> Sides {
    let label = |source: &v1::Source, dirty| SideLabel {
        rev: Some(source.rev.clone()).filter(|rev| !rev.is_empty()),
        dirty,
    };
    let compared = detail.targets.iter().any(|target| target.side() == Side::Before);
    let unknown = compared.then(SideLabel::default);
    Sides {
        before: request.before.as_ref().map(|source| label(source, false)).or(unknown),
        after: request.after.as_ref().map(|source| label(source, request.dirty)).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sides_are_those_that_were_submitted() {
        let source = |rev: &str| v1::Source { rev: rev.to_owned(), ..v1::Source::default() };
        let request = v1::SubmitRequest {
            before: Some(source("b")),
            after: Some(source("")),
            dirty: true,
            ..v1::SubmitRequest::default()
        };
        let told = sides(&v1::RunDetail::default(), &request);
        assert_eq!(told.before, Some(SideLabel { rev: Some("b".to_owned()), dirty: false }));
        assert_eq!(told.after, SideLabel { rev: None, dirty: true });
        let alone = sides(&v1::RunDetail::default(), &v1::SubmitRequest::default());
        assert_eq!(alone.before, None);
    }
}

//! `fleetctl why`: what a host or a derivation waits for, down to what blocks it.

use fleet_wire::v1;
use serde::Serialize;

use super::coordinator::Asking;
use crate::args::{GlobalArgs, RunArgs, WhyArgs};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::listing;
use crate::output;
use crate::progress::{Line, Style, plural, visible};

#[derive(Serialize)]
struct WhyJson<'a> {
    answers: Vec<AnswerJson<'a>>,
}

#[derive(Serialize)]
struct AnswerJson<'a> {
    subject: &'a str,
    state: &'a str,
    chain: Vec<StepJson<'a>>,
    rejections: Vec<RejectionJson<'a>>,
}

#[derive(Serialize)]
struct StepJson<'a> {
    drv: &'a str,
    name: &'a str,
    system: &'a str,
    stage: &'a str,
    waits_for: u32,
    worker: &'a str,
    attempts: u32,
}

impl<'a> StepJson<'a> {
    fn of(step: &'a v1::WhyStep) -> Self {
        Self {
            drv: &step.drv,
            name: &step.name,
            system: &step.system,
            stage: &step.stage,
            waits_for: step.waits_for,
            worker: &step.worker,
            attempts: step.attempts,
        }
    }
}

#[derive(Serialize)]
struct RejectionJson<'a> {
    worker: &'a str,
    reason: &'a str,
}

/// Prints one answer for each target or step that the selector means.
pub async fn execute(global: &GlobalArgs, args: &WhyArgs) -> Result<Exit, CliError> {
    let asking = Asking::begin(global, &RunArgs::default(), "why")?;
    let request = v1::WhyRequest {
        run: args.run.clone().unwrap_or_default(),
        selector: base_name(&args.selector).to_owned(),
    };
    let reply = asking.connection.runs().why(request).await;
    let answers = reply.map_err(|status| unanswered(args, &status))?.into_inner().answers;
    if answers.is_empty() && !args.json {
        return Err(nothing_known(args));
    }
    if args.json {
        output::print(&json(&answers))?;
        return Ok(Exit::Success);
    }
    let screen = asking.screen();
    let lines = answers.iter().flat_map(page).map(|line| match screen.columns {
        Some(columns) => line.clipped(columns),
        None => line,
    });
    screen.print(&lines.collect::<Vec<_>>())?;
    Ok(Exit::Success)
}

/// Derivations are known by their base names.
fn base_name(text: &str) -> &str {
    let base = text.rsplit('/').next().unwrap_or(text);
    if base.strip_suffix(".drv").is_some() { base } else { text }
}

fn nothing_known(args: &WhyArgs) -> CliError {
    let place =
        args.run.as_ref().map_or_else(|| "no live run".to_owned(), |run| format!("run {run} neither"));
    CliError::new(format!("{place} has a host or a derivation `{}`", args.selector))
        .next("`fleetctl status` lists live runs, `fleetctl show RUN` the hosts of one")
}

fn unanswered(args: &WhyArgs, status: &tonic::Status) -> CliError {
    match status.code() {
        tonic::Code::NotFound => CliError::new(status.message())
            .next("`fleetctl status` lists live runs, `fleetctl show RUN` the hosts of one"),
        _ => CliError::of_status(&format!("`{}` is not explained", args.selector), status),
    }
}

fn json(answers: &[v1::Why]) -> String {
    let answers = answers.iter().map(|why| AnswerJson {
        subject: &why.subject,
        state: &why.state,
        chain: why.chain.iter().map(StepJson::of).collect(),
        rejections: why
            .rejections
            .iter()
            .map(|said| RejectionJson { worker: &said.worker, reason: &said.reason })
            .collect(),
    });
    listing::document(WhyJson { answers: answers.collect() })
}

fn page(why: &v1::Why) -> Vec<Line> {
    let head = Line::new()
        .and(Style::Bold, visible(&why.subject))
        .and(Style::Plain, format!(": {}", visible(&why.state)));
    let steps = why.chain.iter().map(|step| {
        Line::new()
            .and(Style::Dim, "  → ")
            .and(Style::Plain, visible(&step.name))
            .and(Style::Dim, facts(step))
    });
    let rejections = why.rejections.iter().map(|said| {
        Line::new()
            .and(Style::Dim, "      ")
            .and(Style::Notable, visible(&said.worker))
            .and(Style::Plain, format!(" {}", visible(&said.reason)))
    });
    std::iter::once(head).chain(steps).chain(rejections).collect()
}

fn facts(step: &v1::WhyStep) -> String {
    let mut facts = vec![visible(&step.stage)];
    if step.waits_for > 0 {
        facts.push(format!("for {}", plural(step.waits_for as usize, "input")));
    }
    if !step.worker.is_empty() {
        facts.push(format!("on {}", visible(&step.worker)));
    }
    if !step.system.is_empty() {
        facts.push(visible(&step.system));
    }
    if step.attempts > 1 {
        facts.push(format!("attempt {}", step.attempts));
    }
    format!("  {}", facts.join(", ").replacen(", for ", " for ", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why() -> v1::Why {
        let step = |name: &str, stage: &str, waits_for| v1::WhyStep {
            drv: format!("hash-{name}.drv"),
            name: name.to_owned(),
            system: "aarch64-darwin".to_owned(),
            stage: stage.to_owned(),
            waits_for,
            ..Default::default()
        };
        let rejection = |worker: &str, reason: &str| v1::WorkerRejection {
            worker: worker.to_owned(),
            reason: reason.to_owned(),
        };
        v1::Why {
            subject: "mac (after)".to_owned(),
            state: "waits for 12 of 40 steps".to_owned(),
            chain: vec![step("darwin-system", "waiting", 3), step("bash-5.3", "ready", 0)],
            rejections: vec![
                rejection("b1", "builds for x86_64-linux only"),
                rejection("mac1", "is drained: \u{1b}[2Jnew disk"),
            ],
        }
    }

    fn text(why: &v1::Why) -> String {
        page(why).iter().map(|line| line.text() + "\n").collect()
    }

    #[test]
    fn the_way_down_to_what_blocks_is_told() {
        insta::assert_snapshot!(text(&why()), @r"
    mac (after): waits for 12 of 40 steps
      → darwin-system  waiting for 3 inputs, aarch64-darwin
      → bash-5.3  ready, aarch64-darwin
          b1 builds for x86_64-linux only
          mac1 is drained: \u{1b}[2Jnew disk
    ");
        insta::assert_snapshot!(json(&[why()]), @r#"{"schema":1,"answers":[{"subject":"mac (after)","state":"waits for 12 of 40 steps","chain":[{"drv":"hash-darwin-system.drv","name":"darwin-system","system":"aarch64-darwin","stage":"waiting","waits_for":3,"worker":"","attempts":0},{"drv":"hash-bash-5.3.drv","name":"bash-5.3","system":"aarch64-darwin","stage":"ready","waits_for":0,"worker":"","attempts":0}],"rejections":[{"worker":"b1","reason":"builds for x86_64-linux only"},{"worker":"mac1","reason":"is drained: \u001b[2Jnew disk"}]}]}"#);
    }
}

//! `fleetctl worker`: enrol, look at and steer workers.

use std::time::Duration;

use fleet_wire::v1::{self, WorkerOrder};
use serde::Serialize;
use tonic::{Code, Status};

use super::confirm::confirm;
use super::coordinator::Asking;
use crate::args::{GlobalArgs, RunArgs, WorkerArgs, WorkerCommand, WorkerTokenArgs};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::listing::{self, WorkerJson};
use crate::output;
use crate::progress::visible;

#[derive(Serialize)]
struct WorkersJson<'a> {
    workers: Vec<WorkerJson<'a>>,
}

/// Does what the subcommand says.
pub async fn execute(global: &GlobalArgs, args: &WorkerArgs) -> Result<Exit, CliError> {
    let asking = Asking::begin(global, &RunArgs::default(), "worker")?;
    match &args.command {
        WorkerCommand::Token(args) => token(&asking, args).await?,
        WorkerCommand::Ls { json } => list(&asking, *json).await?,
        WorkerCommand::Show { name, json } => show(&asking, name, *json).await?,
        WorkerCommand::Drain { name, reason } => order(&asking, name, WorkerOrder::Drain, reason).await?,
        WorkerCommand::Resume { name } => order(&asking, name, WorkerOrder::Resume, "").await?,
        WorkerCommand::Revoke { name, yes } => {
            let name_shown = visible(name);
            confirm(&format!("Shut worker {name_shown} out for ever, and cancel what it builds?"), *yes)?;
            order(&asking, name, WorkerOrder::Revoke, "").await?;
        }
    }
    Ok(Exit::Success)
}

async fn token(asking: &Asking, args: &WorkerTokenArgs) -> Result<(), CliError> {
    let request = v1::CreateJoinTokenRequest {
        name: args.name.clone(),
        systems: args.systems.clone(),
        features: args.features.clone(),
        ttl_s: args.ttl.as_ref().map_or(0, Duration::as_secs),
    };
    let reply = asking.connection.admin().create_join_token(request).await;
    let reply = reply.map_err(|status| CliError::of_status("no token is made", &status))?.into_inner();
    print_token(&reply.token, reply.expires, args.json)
}

/// A token alone on standard output, so that it can be piped to where it is needed.
pub(super) fn print_token(token: &str, expires: u64, json: bool) -> Result<(), CliError> {
    if json {
        let document = serde_json::json!({ "token": token, "expires_unix_s": expires });
        return output::print(&listing::document(document));
    }
    output::print(&(visible(token) + "\n"))
}

async fn workers(asking: &Asking, name: &str) -> Result<Vec<v1::WorkerStatus>, CliError> {
    let reply =
        asking.connection.admin().list_workers(v1::ListWorkersRequest { name: name.to_owned() }).await;
    Ok(reply.map_err(|status| of_worker("the workers are not listed", name, &status))?.into_inner().workers)
}

async fn list(asking: &Asking, json: bool) -> Result<(), CliError> {
    let workers = workers(asking, "").await?;
    if json {
        let workers = workers.iter().map(WorkerJson::of).collect();
        return output::print(&listing::document(WorkersJson { workers }));
    }
    let screen = asking.screen();
    if workers.is_empty() {
        return Ok(());
    }
    screen.print(&listing::worker_table(&workers).lines(screen.columns))
}

async fn show(asking: &Asking, name: &str, json: bool) -> Result<(), CliError> {
    let workers = workers(asking, name).await?;
    let Some(worker) = workers.iter().find(|worker| worker.name == name) else {
        return Err(unknown(name));
    };
    if json {
        return output::print(&listing::document(WorkerJson::of(worker)));
    }
    asking.screen().print(&listing::worker_page(worker, listing::unix_ms()))
}

async fn order(asking: &Asking, name: &str, order: WorkerOrder, reason: &str) -> Result<(), CliError> {
    let request =
        v1::OrderWorkerRequest { name: name.to_owned(), order: order.into(), reason: reason.to_owned() };
    let reply = asking.connection.admin().order_worker(request).await;
    reply.map_err(|status| of_worker("the worker is not told", name, &status))?;
    Ok(())
}

fn of_worker(what: &str, name: &str, status: &Status) -> CliError {
    if status.code() == Code::NotFound { unknown(name) } else { CliError::of_status(what, status) }
}

fn unknown(name: &str) -> CliError {
    CliError::new(format!("the coordinator knows no worker `{name}`"))
        .next("`fleetctl worker ls` lists those it knows")
}

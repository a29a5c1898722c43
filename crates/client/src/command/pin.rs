//! `fleetctl pin` and `unpin`: what is kept until somebody says otherwise.

use fleet_nix::StorePath;
use fleet_wire::v1;
use fleet_wire::v1::pin_request::What;
use serde::Serialize;
use tonic::{Code, Status};

use super::coordinator::Asking;
use crate::args::{GlobalArgs, PinArgs, RunArgs, UnpinArgs};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::listing::{self, Cell, Table};
use crate::output;
use crate::progress::visible;

#[derive(Serialize)]
struct RootsJson<'a> {
    roots: Vec<RootJson<'a>>,
}

#[derive(Serialize)]
struct RootJson<'a> {
    name: &'a str,
    pinned: bool,
    branch: Option<&'a str>,
    since_unix_s: u64,
    paths: &'a [String],
}

/// Pins, or lists what is kept.
pub async fn execute(global: &GlobalArgs, args: &PinArgs) -> Result<Exit, CliError> {
    let asking = Asking::begin(global, &RunArgs::default(), "pin")?;
    match &args.what {
        None => list(&asking, args.json).await?,
        Some(what) => pin(&asking, what, args).await?,
    }
    Ok(Exit::Success)
}

/// Unpins.
pub async fn remove(global: &GlobalArgs, args: &UnpinArgs) -> Result<Exit, CliError> {
    let asking = Asking::begin(global, &RunArgs::default(), "unpin")?;
    let reply = asking.connection.cache().unpin(v1::UnpinRequest { name: args.name.clone() }).await;
    reply.map_err(|status| match status.code() {
        Code::NotFound => CliError::new(format!("nothing is pinned as `{}`", args.name))
            .next("`fleetctl pin --list` names what is"),
        _ => CliError::of_status("nothing is unpinned", &status),
    })?;
    Ok(Exit::Success)
}

async fn pin(asking: &Asking, what: &str, args: &PinArgs) -> Result<(), CliError> {
    let name = args.name.clone().unwrap_or_default();
    let path = store_path(what)?;
    let request = match &path {
        Some(path) => What::Path(path.to_string()),
        None => What::Run(what.to_owned()),
    };
    let reply = asking.connection.cache().pin(v1::PinRequest { what: Some(request), name }).await;
    let pinned = reply.map_err(|status| refused(what, path.as_ref(), &status))?.into_inner().name;
    if args.json {
        return output::print(&listing::document(serde_json::json!({ "name": pinned })));
    }
    output::print(&(visible(&pinned) + "\n"))
}

/// A name of the store, or anything that leads there, such as `./result`; nothing for what can only be a run.
fn store_path(what: &str) -> Result<Option<StorePath>, CliError> {
    if !what.contains('/') {
        return Ok(what.parse().ok());
    }
    let in_store = |text: &str| {
        let rest = text.strip_prefix("/nix/store/")?;
        rest.split('/').next()?.parse::<StorePath>().ok()
    };
    if let Some(path) = in_store(what) {
        return Ok(Some(path));
    }
    let target = std::fs::canonicalize(what).ok();
    let path = target.as_deref().and_then(|path| path.to_str()).and_then(in_store);
    path.map(Some).ok_or_else(|| {
        CliError::new(format!("`{what}` leads to no store path"))
            .next("Give a run, a path below /nix/store, or a link to one")
    })
}

fn refused(what: &str, path: Option<&StorePath>, status: &Status) -> CliError {
    match (status.code(), path) {
        (Code::NotFound, Some(path)) => CliError::new(format!("the coordinator does not keep {path}")).next(
            "Only what runs have published can be pinned; `fleetctl cache info` tells how much that is",
        ),
        (Code::AlreadyExists, _) => CliError::new(format!("`{what}` is not pinned: the name is taken"))
            .next("Give another --name, or `fleetctl unpin` the one that has it"),
        (_, Some(_)) => CliError::of_status("the path is not pinned", status),
        (_, None) => CliError::of_run_request("the run is not pinned", what, status),
    }
}

async fn list(asking: &Asking, json: bool) -> Result<(), CliError> {
    let reply = asking.connection.cache().list_roots(v1::ListRootsRequest {}).await;
    let reply = reply.map_err(|status| CliError::of_status("what is kept is not listed", &status))?;
    let roots = reply.into_inner().roots;
    if json {
        let roots = roots.iter().map(|root| RootJson {
            name: &root.name,
            pinned: root.pinned,
            branch: Some(&*root.branch).filter(|branch| !branch.is_empty()),
            since_unix_s: root.since,
            paths: &root.paths,
        });
        return output::print(&listing::document(RootsJson { roots: roots.collect() }));
    }
    let screen = asking.screen();
    if roots.is_empty() {
        return Ok(());
    }
    screen.print(&table(&roots, listing::unix_ms()).lines(screen.columns))
}

fn table(roots: &[v1::Root], now_ms: u64) -> Table {
    let mut table = Table::new(&["NAME", "KEPT", "BRANCH", "SINCE", "PATHS"]);
    for root in roots {
        table.row(vec![
            Cell::text(&root.name),
            Cell::text(if root.pinned { "pinned" } else { "by age" }),
            Cell::text(&root.branch),
            Cell::text(&listing::age(root.since.saturating_mul(1000), now_ms)),
            Cell::number(root.paths.len() as u64),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_runs_are_told_apart() {
        let base = "00000000000000000000000000000000-web";
        let path = |what: &str| store_path(what).expect(what).map(|path| path.to_string());
        assert_eq!(path(base).as_deref(), Some(base));
        assert_eq!(path(&format!("/nix/store/{base}")).as_deref(), Some(base));
        assert_eq!(path(&format!("/nix/store/{base}/bin/x")).as_deref(), Some(base));
        assert_eq!(path("run-7"), None);
        assert!(store_path("./nowhere").is_err() && store_path("/etc").is_err());
    }

    #[test]
    fn what_is_kept_is_listed() {
        let root = |name: &str, pinned, branch: &str| v1::Root {
            name: name.to_owned(),
            pinned,
            branch: branch.to_owned(),
            since: 60,
            paths: vec![String::new(); 3],
        };
        let roots = [root("release\u{1b}", true, ""), root("run-7", false, "main")];
        let lines = table(&roots, 120_000).lines(None);
        let text: String = lines.iter().map(|line| line.text().trim_end().to_owned() + "\n").collect();
        insta::assert_snapshot!(text, @r"
    NAME           KEPT    BRANCH  SINCE      PATHS
    release\u{1b}  pinned          1m00s ago      3
    run-7          by age  main    1m00s ago      3
    ");
    }
}

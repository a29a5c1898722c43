//! `fleetctl config show`: every setting, its value and its origin.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;

use super::session::{self, Flake};
use crate::args::{ConfigArgs, ConfigCommand, GlobalArgs, RunArgs};
use crate::config::{Environment, Setting, Settings};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::output;
use crate::progress::visible;

/// Prints the settings.
pub fn execute(global: &GlobalArgs, args: &ConfigArgs) -> Result<Exit, CliError> {
    let ConfigCommand::Show { flake } = &args.command;
    // Without a flake the other settings are still worth a look.
    let directory = match Flake::find(flake) {
        Ok(flake) => flake.directory(),
        Err(_) if flake == "." => session::current_directory()?,
        Err(error) => return Err(error),
    };
    let environment = Environment::of_process();
    let settings = session::settings(global, &RunArgs::default(), &environment, &directory)?;
    output::print(&table(&settings))?;
    Ok(Exit::Success)
}

/// One line a setting: name, value as TOML, origin.
fn table(settings: &Settings) -> String {
    let s = settings;
    let r = &settings.remote;
    let rows = [
        row("branch", &s.branch, |name| name.as_deref().map_or_else(|| "(of git or CI)".to_owned(), text)),
        row("bring", &s.bring, |names| list(names.iter().cloned())),
        row("ca", &r.ca, |path| file(path.as_deref(), "(of the system)")),
        row("cache_dir", &s.cache_dir, |path| text(&path.display().to_string())),
        row("client_cert", &r.client_cert, |path| file(path.as_deref(), NONE)),
        row("client_key", &r.client_key, |path| file(path.as_deref(), NONE)),
        row("color", &s.color, |choice| text(&name(choice))),
        row("coordinator", &r.coordinator, |endpoint| {
            endpoint
                .as_ref()
                .map_or_else(|| "(in this process)".to_owned(), |endpoint| text(&endpoint.to_string()))
        }),
        row("eval_slots", &s.eval_slots, |slots| number(*slots)),
        row("exclude", &s.exclude, |globs| list(globs.iter().cloned())),
        row("fail_fast", &s.fail_fast, bool::to_string),
        row("fold", &s.fold, bool::to_string),
        row("format", &s.format, |format| text(&name(format))),
        row("kind", &s.kind, |kinds| list(kinds.iter().map(name))),
        row("nix", &s.nix, |path| text(&path.display().to_string())),
        row("oidc_token_file", &r.oidc_token_file, |path| file(path.as_deref(), NONE)),
        row("print_build_logs", &s.print_build_logs, bool::to_string),
        row("reconnect_for", &r.reconnect_for, |time| text(&seconds(*time))),
        row("state_dir", &s.state_dir, |path| text(&path.display().to_string())),
        row("store", &s.store, |store| store.as_deref().map_or_else(|| "(from NIX_REMOTE)".to_owned(), text)),
        // Never the token itself.
        row("token", &r.token, |token| token.as_ref().map_or(NONE, |_| "(secret)").to_owned()),
        row("token_file", &r.token_file, |path| file(path.as_deref(), NONE)),
        row("worker_slots", &s.worker_slots, |slots| number(*slots)),
    ];
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let mut table = String::new();
    for [name, value, origin] in &rows {
        let _ = writeln!(table, "{name:first$} = {value:second$}  # {origin}");
    }
    table
}

fn row<T>(name: &str, setting: &Setting<T>, show: impl Fn(&T) -> String) -> [String; 3] {
    [name.to_owned(), visible(&show(&setting.value)), visible(&setting.origin.to_string())]
}

/// A value that is none.
const NONE: &str = "(none)";

fn file(path: Option<&Path>, none: &str) -> String {
    path.map_or_else(|| none.to_owned(), |path| text(&path.display().to_string()))
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs())
}

fn number(value: Option<u32>) -> String {
    value.map_or_else(|| "(by this machine)".to_owned(), |value| value.to_string())
}

fn name<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn text(value: &str) -> String {
    format!("{value:?}")
}

fn list(values: impl Iterator<Item = String>) -> String {
    let values: Vec<String> = values.map(|value| text(&value)).collect();
    format!("[{}]", values.join(", "))
}

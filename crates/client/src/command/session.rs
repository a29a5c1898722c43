//! What commands begin with: the flake's place, the settings, the display.

use std::io::{self, IsTerminal, Stderr};
use std::path::{Path, PathBuf};

use crate::args::{GlobalArgs, RunArgs};
use crate::config::{Environment, Files, Settings};
use crate::embed::EmbedConfig;
use crate::error::CliError;
use crate::progress::{self, Console, ConsoleOptions, Display, Mode, Narrator, Size};
use crate::signals::Signals;
use crate::source::{FlakeRef, Location};

/// The flake that the user means.
#[derive(Clone, Debug)]
pub struct Flake {
    /// As typed.
    pub reference: FlakeRef,
    /// As found.
    pub location: Location,
}

impl Flake {
    /// Reads the reference and finds the tree.
    pub fn find(text: &str) -> Result<Self, CliError> {
        let reference = FlakeRef::parse(text)?;
        let location = Location::find(&reference, &current_directory()?)?;
        Ok(Self { reference, location })
    }

    /// Where flake.nix is.
    pub fn directory(&self) -> PathBuf {
        match &self.location {
            Location::Repository { root, subdir } | Location::Directory { root, subdir } => root.join(subdir),
        }
    }
}

/// The settings in force for a flake in `directory`.
pub fn settings(
    global: &GlobalArgs,
    run: &RunArgs,
    environment: &Environment,
    directory: &Path,
) -> Result<Settings, CliError> {
    let files = Files::load(environment, directory)?;
    Ok(Settings::resolve(global, run, environment, &files)?)
}

/// Embedded mode under these settings.
pub fn embed_config(settings: &Settings) -> EmbedConfig {
    EmbedConfig {
        state_dir: settings.state_dir.value.clone(),
        cache_dir: settings.cache_dir.value.clone(),
        store: settings.store.value.clone(),
        nix: settings.nix.value.clone(),
        slots: settings.worker_slots.value,
        eval_slots: settings.eval_slots.value,
    }
}

/// Listens for signals.
pub fn signals() -> Result<Signals, CliError> {
    Signals::listen().map_err(|error| CliError::new(format!("cannot listen for signals: {error}")))
}

/// Whether somebody sits there who can be asked.
pub fn can_ask(environment: &Environment) -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal() && !progress::folds(environment)
}

/// A display on standard error.
pub fn display(global: &GlobalArgs, settings: &Settings, environment: &Environment) -> Display<Stderr> {
    let is_terminal = io::stderr().is_terminal();
    // A log of our own on the same stream would be overwritten by the region.
    let mode = match progress::choose_mode(global.quiet, is_terminal, environment) {
        Mode::Live if environment.get("FLEET_LOG").is_some() => Mode::Plain,
        mode => mode,
    };
    let color = progress::colored(settings.color.value, is_terminal, environment);
    let fold = settings.fold.value && mode == Mode::Plain && progress::folds(environment);
    let options = ConsoleOptions { mode, color, fold, size: terminal_size };
    let narrator = Narrator::new(global.verbose, settings.print_build_logs.value, fold);
    Display::new(Console::new(io::stderr(), options), narrator)
}

/// The directory that relative paths start from.
pub fn current_directory() -> Result<PathBuf, CliError> {
    std::env::current_dir().map_err(|_| {
        CliError::new("the current directory is gone")
            .next("Change to one that exists, and run the command again")
    })
}

fn terminal_size() -> Size {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
    let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or(Size { columns: 80, rows: 24 }, |size| Size {
        columns: size.ws_col.into(),
        rows: size.ws_row.into(),
    })
}

//! One running Nix: its command line, its environment, its fresh home, and what it says.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStderr, ChildStdin, Command};
use tokio::time::timeout;

use super::bounded_lines::BoundedLines;
use super::child::Child;
use super::said::Said;
use super::transcript::Transcript;
use super::{EvalError, EvaluatorConfig};

/// Longest line that is understood; ten thousand host names fit.
const LINE_LIMIT: usize = 4 * 1024 * 1024;
/// How long a program may take to end after it closed its output.
const GRACE: Duration = Duration::from_secs(5);

/// A running Nix; dropping it ends it and removes its home.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: BoundedLines<ChildStderr>,
    nonce: String,
    _home: FreshHome,
}

/// What was said about one question.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The announced value, as JSON.
    pub(super) value: Option<String>,
    /// Everything else.
    pub(super) transcript: Transcript,
    /// Set when the process closed its output before the question's end was announced.
    pub(super) ended: bool,
}

impl Process {
    /// Starts `nix` with a subcommand, its arguments, and `nonce` for its announcements.
    pub(super) async fn start<S: AsRef<OsStr>>(
        config: &EvaluatorConfig,
        nonce: String,
        arguments: &[S],
    ) -> Result<Process, EvalError> {
        let start_error =
            |error: io::Error| EvalError::Start { cause: format!("{}: {error}", config.nix.display()) };
        let home = FreshHome::make(&config.home, &nonce)
            .map_err(|error| EvalError::Start { cause: format!("{}: {error}", config.home.display()) })?;
        let mut command = Command::new(&config.nix);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        set_environment(&mut command, config, &home.0);
        let mut child = Child::spawn(command).await.map_err(start_error)?;
        let stdin = child.stdin();
        let stderr = child.stderr().ok_or_else(|| start_error(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Process { child, stdin, lines: BoundedLines::new(stderr, LINE_LIMIT), nonce, _home: home })
    }

    pub(super) fn nonce(&self) -> &str {
        &self.nonce
    }

    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Feeds lines. A process that is gone says so by what is heard next.
    pub(super) async fn say(&mut self, lines: &str) {
        if let Some(stdin) = &mut self.stdin
            && (stdin.write_all(lines.as_bytes()).await.is_err() || stdin.flush().await.is_err())
        {
            self.stdin = None;
        }
    }

    /// Ends the process's input.
    pub(super) fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Listens until the end of question `number` is announced, or the process closes its output.
    ///
    /// What was heard is left in `heard` also when the future is dropped.
    pub(super) async fn hear(&mut self, number: u64, heard: &mut Heard) {
        loop {
            let Ok(Some(line)) = self.lines.next().await else {
                heard.ended = true;
                return;
            };
            heard.transcript.note_cut(&line);
            match Said::parse(&line.bytes, &self.nonce) {
                Said::Announcement { word, number: said, json } if said == number => match word.as_str() {
                    "value" => heard.value = Some(json),
                    "end" => return,
                    _ => {}
                },
                Said::Announcement { .. } | Said::Nothing => {}
                Said::Error(text) => heard.transcript.push_error(&text),
                Said::Text(text) => heard.transcript.push(&text),
            }
        }
    }

    /// How the process ended, in words, after it closed its output.
    pub(super) async fn ending(&mut self) -> String {
        match timeout(GRACE, self.child.wait()).await {
            Ok(Ok(status)) => describe(status),
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                let _ = self.child.end().await;
                "it closed its output and did not end".to_owned()
            }
        }
    }
}

/// A number that no flake can know.
pub(super) fn fresh_nonce() -> Result<String, EvalError> {
    let mut random = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .map_err(|error| EvalError::Start { cause: format!("/dev/urandom: {error}") })?;
    Ok(crate::base16::encode(&random))
}

/// The arguments that every evaluation has, for `nix` itself and for its subcommand.
pub(super) fn arguments(config: &EvaluatorConfig, subcommand: &str, rest: &[&str]) -> Vec<String> {
    let features = ["nix-command", "flakes"].into_iter().chain(config.features.iter().map(String::as_str));
    let features = features.collect::<Vec<_>>().join(" ");
    let options = [
        ("extra-experimental-features", features.as_str()),
        ("pure-eval", "true"),
        ("accept-flake-config", "false"),
        ("flake-registry", ""),
    ];
    let mut arguments = vec![subcommand.to_owned()];
    for (name, value) in options {
        arguments.extend(["--option".to_owned(), name.to_owned(), value.to_owned()]);
    }
    arguments.extend(["--log-format", "internal-json", "--show-trace"].map(str::to_owned));
    arguments.extend(rest.iter().map(|&argument| argument.to_owned()));
    arguments
}

fn set_environment(command: &mut Command, config: &EvaluatorConfig, home: &Path) {
    command
        .env_clear()
        .current_dir(home)
        .env("PATH", &config.search_path)
        .env("HOME", home)
        .env("TMPDIR", home)
        .env("XDG_CACHE_HOME", &config.cache)
        .env("LANG", "C.UTF-8")
        .env("NIX_REMOTE", &config.store_uri)
        .env("NIX_STORE_DIR", config.store_dir.as_str())
        // Neither the machine's nix.conf nor a user's: the home is empty.
        .env("NIX_CONF_DIR", home)
        .env("NIX_USER_CONF_FILES", "")
        .envs(config.environment.iter().map(|(name, value)| (name, value)));
}

fn describe(status: ExitStatus) -> String {
    match status.signal() {
        Some(9) => "killed, perhaps because memory ran out (signal 9)".to_owned(),
        Some(signal) => format!("ended by signal {signal}"),
        None => format!("ended with exit code {}", status.code().unwrap_or_default()),
    }
}

/// A directory that only we can enter, gone with the process.
#[derive(Debug)]
struct FreshHome(PathBuf);

impl FreshHome {
    fn make(parent: &Path, nonce: &str) -> io::Result<FreshHome> {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let home = parent.join(format!("evaluator-{nonce}"));
        DirBuilder::new().mode(0o700).create(&home)?;
        Ok(FreshHome(home))
    }
}

impl Drop for FreshHome {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

//! `fleetctl cache`: what a coordinator keeps, or what runs in this process left behind.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use fleet_wire::v1;
use serde::Serialize;
use tonic::Streaming;

use super::cache_here;
use super::coordinator;
use super::session;
use crate::args::{CacheArgs, CacheCommand, CacheGcArgs, GlobalArgs, RunArgs};
use crate::config::{Environment, Settings};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::listing::{self, Screen, bytes};
use crate::output;
use crate::progress::{Line, Style, plural, visible};
use crate::remote::Connection;

#[derive(Serialize)]
struct InfoJson<'a> {
    place: &'a str,
    chunks: u64,
    chunk_bytes: u64,
    paths: u64,
    nar_bytes: u64,
    published: u64,
    condemned: u64,
    roots: u64,
    upstream: u64,
    free_bytes: Option<u64>,
    public_keys: &'a [String],
}

/// What a collection did, or would do.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Collected {
    pub(super) dry_run: bool,
    pub(super) looked_at: u64,
    pub(super) condemned: u64,
    pub(super) paths_removed: u64,
    pub(super) chunks_removed: u64,
    pub(super) bytes_removed: u64,
}

#[derive(Serialize)]
struct VerifiedJson<'a> {
    paths: u64,
    bytes: u64,
    damaged: Vec<DamagedJson<'a>>,
}

#[derive(Serialize)]
struct DamagedJson<'a> {
    path: &'a str,
    why: &'a str,
}

/// Does what the subcommand says.
pub async fn execute(global: &GlobalArgs, args: &CacheArgs) -> Result<Exit, CliError> {
    let environment = Environment::of_process();
    let settings =
        session::settings(global, &RunArgs::default(), &environment, &session::current_directory()?)?;
    let screen = Screen::of_stdout(settings.color.value, &environment);
    let said = Said { quiet: global.quiet, screen };
    match (coordinator::connection(&settings)?, &args.command) {
        (Some(connection), CacheCommand::Info { json }) => info(&connection, said, *json).await,
        (Some(connection), CacheCommand::Gc(args)) => collect(&connection, said, args).await,
        (Some(connection), CacheCommand::Verify { json }) => verify(&connection, said, *json).await,
        (None, command) => here(&settings, command).await,
    }
}

/// Without a coordinator there are only the sources of runs in this process.
async fn here(settings: &Settings, command: &CacheCommand) -> Result<Exit, CliError> {
    let state_dir = &settings.state_dir.value;
    match command {
        CacheCommand::Info { json } => cache_here::info(state_dir, *json).await?,
        CacheCommand::Gc(args) => print_collected(cache_here::collect(state_dir, args).await?, args.json)?,
        CacheCommand::Verify { .. } => {
            return Err(CliError::needs_coordinator("cache verify"));
        }
    }
    Ok(Exit::Success)
}

/// Where results and progress go.
#[derive(Clone, Copy)]
struct Said {
    quiet: bool,
    screen: Screen,
}

impl Said {
    /// One line that the next one takes the place of, where somebody watches.
    fn progress(self, text: &str) {
        if !self.quiet && io::stderr().is_terminal() {
            // Nobody to tell when even this cannot be written.
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
            let _ = io::stderr().flush();
        }
    }
}

async fn info(connection: &Connection, said: Said, json: bool) -> Result<Exit, CliError> {
    let reply = connection.cache().info(v1::CacheInfoRequest {}).await;
    let info =
        reply.map_err(|status| CliError::of_status("the cache is not described", &status))?.into_inner();
    if json {
        output::print(&listing::document(InfoJson {
            place: &info.place,
            chunks: info.chunks,
            chunk_bytes: info.chunk_bytes,
            paths: info.paths,
            nar_bytes: info.nar_bytes,
            published: info.published,
            condemned: info.condemned,
            roots: info.roots,
            upstream: info.upstream,
            free_bytes: (info.free_bytes > 0).then_some(info.free_bytes),
            public_keys: &info.public_keys,
        }))?;
    } else {
        said.screen.print(&info_page(&info))?;
    }
    Ok(Exit::Success)
}

fn info_page(info: &v1::CacheInfoReply) -> Vec<Line> {
    let fact = |name: &str, text: &str| {
        Line::new().and(Style::Plain, format!("{name:<12}")).and(Style::Plain, visible(text))
    };
    let mut lines = vec![
        fact("place", &info.place),
        fact("store paths", &format!("{}, {} uncompressed", info.paths, bytes(info.nar_bytes))),
        fact("published", &info.published.to_string()),
        fact("upstream", &info.upstream.to_string()),
        fact("chunks", &format!("{}, {}", info.chunks, bytes(info.chunk_bytes))),
        fact("kept by", &plural(usize::try_from(info.roots).unwrap_or(usize::MAX), "root")),
        fact("condemned", &info.condemned.to_string()),
    ];
    if info.free_bytes > 0 {
        lines.push(fact("free", &bytes(info.free_bytes)));
    }
    lines.extend(info.public_keys.iter().map(|key| fact("public key", key)));
    lines
}

async fn collect(connection: &Connection, said: Said, args: &CacheGcArgs) -> Result<Exit, CliError> {
    let request =
        v1::CollectRequest { dry_run: args.dry_run, grace_s: args.grace.map(|grace| grace.as_secs()) };
    let failed = |status| CliError::of_status("the cache is not collected", &status);
    let mut progress = connection.cache().collect(request).await.map_err(failed)?.into_inner();
    let last = last(
        &mut progress,
        |progress| progress.done,
        |progress| {
            said.progress(&format!(
                "{} looked at, {} removed",
                progress.looked_at,
                bytes(progress.bytes_removed)
            ));
        },
    );
    let last = last.await;
    said.progress("");
    let last =
        last.map_err(failed)?.ok_or_else(|| CliError::new("the collection was broken off").next(AGAIN))?;
    let collected = Collected {
        dry_run: args.dry_run,
        looked_at: last.looked_at,
        condemned: last.condemned,
        paths_removed: last.paths_removed,
        chunks_removed: last.chunks_removed,
        bytes_removed: last.bytes_removed,
    };
    print_collected(collected, args.json)?;
    Ok(Exit::Success)
}

const AGAIN: &str = "Run the same command again; what is done stays done";

/// The last message of a stream; each is shown.
async fn last<T>(
    stream: &mut Streaming<T>,
    is_last: impl Fn(&T) -> bool,
    mut show: impl FnMut(&T),
) -> Result<Option<T>, tonic::Status> {
    while let Some(message) = stream.message().await? {
        show(&message);
        if is_last(&message) {
            return Ok(Some(message));
        }
    }
    Ok(None)
}

fn print_collected(collected: Collected, json: bool) -> Result<(), CliError> {
    if json {
        return output::print(&listing::document(collected));
    }
    output::print(&(sentence(&collected) + "\n"))
}

fn sentence(collected: &Collected) -> String {
    let count = |number: u64, what: &str| plural(usize::try_from(number).unwrap_or(usize::MAX), what);
    let mut text = format!(
        "{} {} and {}, {}",
        if collected.dry_run { "would remove" } else { "removed" },
        count(collected.paths_removed, "store path"),
        count(collected.chunks_removed, "chunk"),
        bytes(collected.bytes_removed)
    );
    if collected.condemned > 0 {
        let _ = write!(text, "; {} condemned, removed when the grace is over", collected.condemned);
    }
    text
}

async fn verify(connection: &Connection, said: Said, json: bool) -> Result<Exit, CliError> {
    let failed = |status| CliError::of_status("the cache is not verified", &status);
    let mut progress = connection.cache().verify(v1::VerifyRequest {}).await.map_err(failed)?.into_inner();
    let mut damaged: Vec<v1::DamagedPath> = Vec::new();
    let last = last(
        &mut progress,
        |progress| progress.done,
        |progress| {
            damaged.extend(progress.damaged.iter().cloned());
            let found = damaged.len();
            said.progress(&format!(
                "{} paths, {} read, {found} damaged",
                progress.paths,
                bytes(progress.bytes)
            ));
        },
    );
    let last = last.await;
    said.progress("");
    let last = last.map_err(failed)?.ok_or_else(|| CliError::new("the check was broken off").next(AGAIN))?;
    if json {
        let damaged =
            damaged.iter().map(|found| DamagedJson { path: &found.path, why: &found.why }).collect();
        output::print(&listing::document(VerifiedJson { paths: last.paths, bytes: last.bytes, damaged }))?;
    } else {
        let count = plural(usize::try_from(last.paths).unwrap_or(usize::MAX), "store path");
        let mut text = format!("{count}, {}: {} damaged\n", bytes(last.bytes), damaged.len());
        for found in &damaged {
            let _ = writeln!(text, "{}: {}", visible(&found.path), visible(&found.why));
        }
        output::print(&text)?;
    }
    Ok(if damaged.is_empty() { Exit::Success } else { Exit::HostsFailed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_there_is() {
        let info = v1::CacheInfoReply {
            chunks: 4,
            chunk_bytes: 3 << 20,
            paths: 2,
            nar_bytes: 9 << 20,
            published: 1,
            roots: 1,
            place: "s3://bucket/\u{1b}x".to_owned(),
            free_bytes: 1 << 40,
            public_keys: vec!["cache-1:AAAA".to_owned()],
            ..v1::CacheInfoReply::default()
        };
        let lines = info_page(&info);
        let text: String = lines.iter().map(|line| line.text().trim_end().to_owned() + "\n").collect();
        insta::assert_snapshot!(text, @r"
    place       s3://bucket/\u{1b}x
    store paths 2, 9.0 MiB uncompressed
    published   1
    upstream    0
    chunks      4, 3.0 MiB
    kept by     1 root
    condemned   0
    free        1.0 TiB
    public key  cache-1:AAAA
    ");
    }

    #[test]
    fn what_was_collected_is_one_sentence() {
        let collected = Collected { chunks_removed: 1, bytes_removed: 2048, ..Collected::default() };
        assert_eq!(sentence(&collected), "removed 0 store paths and 1 chunk, 2.0 KiB");
        let dry = Collected { dry_run: true, paths_removed: 3, condemned: 5, ..collected };
        assert_eq!(
            sentence(&dry),
            "would remove 3 store paths and 1 chunk, 2.0 KiB; 5 condemned, removed when the grace is over"
        );
    }
}

//! The house rules that a machine can check, over every tracked file of the repository.
//!
//! Sizes are a ratchet: `tests/tidy-allowed.txt` lists what is larger than the rules allow; an entry may
//! shrink or go, and nothing new may be added without a reviewer seeing it there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MAX_FILE_LINES: usize = 400;
const MAX_FUNCTION_LINES: usize = 70;
const VAGUE_NAMES: [&str; 7] = ["utils", "util", "helpers", "helper", "common", "misc", "imp"];

#[test]
fn every_rust_file_says_first_what_it_is_for() {
    let silent: Vec<_> = rust_files()
        .into_iter()
        .filter(|source| !source.path.ends_with("/tests.rs") && !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    assert!(silent.is_empty(), "files without a `//!` header: {silent:#?}");
}

#[test]
fn files_and_functions_stay_small() {
    let mut allowed = allowed_sizes();
    let mut offences = Vec::new();
    let mut check = |what: String, lines: usize, limit: usize| {
        if lines <= limit {
            return;
        }
        match allowed.remove(&what) {
            Some(listed) if lines <= listed => {}
            Some(listed) => offences.push(format!("{what} grew from {listed} to {lines} lines")),
            None => offences.push(format!("{what} has {lines} lines, at most {limit} are allowed")),
        }
    };
    for source in rust_files().iter().filter(|source| !source.is_test()) {
        let body = source.body();
        check(format!("file {}", source.path), body.len(), MAX_FILE_LINES);
        for (name, lines) in functions(&body) {
            check(format!("function {} {name}", source.path), lines, MAX_FUNCTION_LINES);
        }
    }
    offences.extend(
        allowed.keys().map(|what| format!("{what} is small enough: strike it from tests/tidy-allowed.txt")),
    );
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn names_of_files_say_what_they_hold() {
    let vague: Vec<_> = tracked_files()
        .into_iter()
        .filter(|path| is_rust(path))
        .filter(|path| Path::new(path).iter().any(|part| is_vague(&part.to_string_lossy())))
        .collect();
    assert!(vague.is_empty(), "files with names that say nothing: {vague:#?}");
}

#[test]
fn nothing_is_left_open_or_switched_off() {
    // Spelt in pieces, so that this file does not find itself.
    let forbidden =
        [["to", "do!("], ["unimple", "mented!("], ["#[ig", "nore"], ["db", "g!("], ["thread::", "sleep"]];
    let found: Vec<_> = rust_files()
        .iter()
        .flat_map(|source| {
            forbidden
                .iter()
                .filter(|word| source.text.contains(&word.concat()))
                .map(|word| word.concat())
                .map(|word| format!("{}: {word}", source.path))
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn pure_crates_know_no_clock_no_files_and_no_runtime() {
    let outside = ["Instant::now", "SystemTime", "std::fs", "std::env", "tokio::", "thread_rng", "rand::rng"];
    let found: Vec<_> = rust_files()
        .iter()
        .filter(|source| {
            source.path.starts_with("crates/core/src") || source.path.starts_with("crates/diff/src")
        })
        .filter(|source| !source.is_test())
        .flat_map(|source| {
            outside
                .iter()
                .filter(|word| source.body().iter().any(|line| line.contains(*word)))
                .map(|word| format!("{}: {word}", source.path))
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn module_roots_hold_no_logic() {
    let found: Vec<_> = rust_files()
        .iter()
        .filter(|source| source.path.ends_with("/mod.rs"))
        .filter(|source| !functions(&source.body()).is_empty())
        .map(|source| source.path.clone())
        .collect();
    assert!(found.is_empty(), "functions in {found:#?}");
}

#[test]
fn crates_depend_downwards_only() {
    let mut wrong = Vec::new();
    for path in
        tracked_files().iter().filter(|path| path.starts_with("crates/") && path.ends_with("/Cargo.toml"))
    {
        let manifest = read(path);
        let of = path.split('/').nth(1).expect("crates/NAME/Cargo.toml");
        for (section, dependency) in dependencies(&manifest) {
            let test_only = section == "dev-dependencies";
            if !test_only
                && (level(&dependency) >= level(of) && level(of) > 0
                    || dependency == "sim"
                    || dependency == "testkit")
            {
                wrong.push(format!("{of} must not depend on {dependency}"));
            }
            if !test_only && ["core", "diff"].contains(&of) && level(&dependency) > 0 {
                wrong.push(format!("{of} must not depend on {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn ci_runs_what_the_readme_tells_people_to_run() {
    assert_eq!(read(".ci/run"), "#!/usr/bin/env bash\nexec scripts/test\n");
    let readme = read("README.md");
    for command in ["scripts/test", "scripts/demo"] {
        assert!(readme.contains(command), "the README does not name {command}");
        assert!(root().join(command).is_file(), "{command} is missing");
    }
}

#[test]
fn scripts_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    let scripts = tracked_files().into_iter().filter(|path| read_lossy(path).starts_with("#!"));
    for script in scripts {
        let mode = fs::metadata(root().join(&script)).expect("it is tracked").permissions().mode();
        assert!(mode & 0o111 != 0, "{script} is not executable");
        if read_lossy(&script).starts_with("#!/usr/bin/env bash") {
            let parsed =
                Command::new("bash").arg("-n").arg(root().join(&script)).output().expect("bash runs");
            assert!(parsed.status.success(), "{script}: {}", String::from_utf8_lossy(&parsed.stderr));
        }
    }
}

#[test]
fn licences_and_guides_are_there() {
    let guides =
        ["LICENSE-MIT", "LICENSE-APACHE", "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"];
    let missing: Vec<_> = guides.into_iter().filter(|file| !root().join(file).is_file()).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
}

struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        let path = &self.path;
        path.starts_with("tests/")
            || path.starts_with("benches/")
            || path.contains("/tests/")
            || path.contains("/benches/")
            || path.ends_with("/tests.rs")
            || path.ends_with("_tests.rs")
    }

    /// The lines above the tests, which stand last.
    fn body(&self) -> Vec<&str> {
        self.text.lines().take_while(|line| line.trim() != "#[cfg(test)]").collect()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the repository").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The beginning of a file that need not be text.
fn read_lossy(path: &str) -> String {
    let bytes = fs::read(root().join(path)).unwrap_or_default();
    String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).into_owned()
}

/// What git tracks or would track, so that a new file is checked before it is committed.
fn tracked_files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git ls-files failed");
    let listing = String::from_utf8(output.stdout).expect("paths are UTF-8");
    listing.lines().filter(|path| root().join(path).is_file()).map(str::to_owned).collect()
}

fn rust_files() -> Vec<Source> {
    let paths = tracked_files().into_iter().filter(|path| is_rust(path));
    paths.map(|path| Source { text: read(&path), path }).collect()
}

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

fn is_vague(part: &str) -> bool {
    VAGUE_NAMES.contains(&part.trim_end_matches(".rs"))
}

/// Each `file PATH` or `function PATH NAME` of the list, with the lines it may have.
fn allowed_sizes() -> BTreeMap<String, usize> {
    let list = read("tests/tidy-allowed.txt");
    let entries = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parse = |line: &str| {
        let (what, lines) = line.rsplit_once(' ')?;
        Some((what.to_owned(), lines.parse().ok()?))
    };
    entries.map(|line| parse(line).unwrap_or_else(|| panic!("not `WHAT LINES`: {line}"))).collect()
}

/// Names and lengths of functions, told by their indentation: the code is formatted.
fn functions(lines: &[&str]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut open: Vec<(usize, usize, String)> = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if let Some(name) = function_name(line.trim_start()) {
            open.push((number, indent, name));
        }
        let closes = line.trim_end() == format!("{}}}", " ".repeat(indent));
        if closes && open.last().is_some_and(|(_, opened_at, _)| *opened_at == indent) {
            let (start, _, name) = open.pop().expect("one is open");
            found.push((name, number - start + 1));
        } else if line.trim_end().ends_with(';')
            && open.last().is_some_and(|(start, at, _)| *start == number && *at == indent)
        {
            open.pop();
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let mut rest = line;
    if let Some(public) = rest.strip_prefix("pub") {
        let public = public
            .strip_prefix('(')
            .and_then(|scoped| scoped.split_once(')'))
            .map_or(public, |(_, after)| after);
        rest = public.strip_prefix(' ')?;
    }
    for qualifier in ["const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(qualifier).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    Some(name.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect())
}

/// `(section, crate)` of every dependency on a crate of ours.
fn dependencies(manifest: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
        } else if let Some(name) = line.strip_prefix("fleet-")
            && section.ends_with("dependencies")
        {
            let name = name.split(['.', ' ', '=']).next().unwrap_or(name);
            found.push((section.clone(), name.to_owned()));
        }
    }
    found
}

/// How high a crate stands; those at 0 may use one another.
fn level(name: &str) -> u8 {
    match name {
        "client" => 2,
        "coordinator" | "worker" => 1,
        _ => 0,
    }
}

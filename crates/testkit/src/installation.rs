//! Finds the Nix that the tests run, and places for what they write.

use std::env;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatVfsMountFlags};
use tempfile::TempDir;

const MISSING: &str = "no Nix to test with: run scripts/test, or set FLEET_TEST_NIX to a directory with nix and \
                       nix-daemon (scripts/ensure-nix prints one)";

const MEMORY: &str = "/dev/shm";
const ENOUGH_ROOM: u64 = 2 << 30;

/// The directory that holds `nix` and `nix-daemon`.
#[derive(Clone, Debug)]
pub struct NixInstallation {
    bin: PathBuf,
}

impl NixInstallation {
    /// `FLEET_TEST_NIX`, else the directory of `nix` on `PATH`; panics when there is neither.
    pub fn find() -> NixInstallation {
        let bin = match env::var_os("FLEET_TEST_NIX") {
            Some(directory) => PathBuf::from(directory),
            None => directory_on_path().expect(MISSING),
        };
        assert!(
            bin.join("nix").is_file() && bin.join("nix-daemon").is_file(),
            "{MISSING} (looked in {})",
            bin.display()
        );
        NixInstallation { bin }
    }

    /// The directory itself.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The `nix` program.
    pub fn nix(&self) -> PathBuf {
        self.bin.join("nix")
    }

    pub(crate) fn daemon(&self) -> PathBuf {
        self.bin.join("nix-daemon")
    }

    /// A static shell for the build sandbox; none when Nix brings its own.
    pub(crate) fn sandbox_shell(&self) -> Option<PathBuf> {
        Some(self.bin.join("sandbox-shell")).filter(|shell| shell.is_file())
    }
}

/// A fresh directory with a path short enough for the Unix sockets inside it (at most 108 bytes), in memory where
/// there is room: stores are thousands of small files.
pub fn short_temp_dir() -> TempDir {
    let place = if has_room(Path::new(MEMORY)) {
        PathBuf::from(MEMORY)
    } else {
        Some(env::temp_dir()).filter(|place| place.as_os_str().len() <= 32).unwrap_or_else(|| "/tmp".into())
    };
    tempfile::Builder::new()
        .prefix("fl-")
        .rand_bytes(6)
        .tempdir_in(place)
        .expect("a writable temporary directory")
}

fn has_room(directory: &Path) -> bool {
    rustix::fs::access(directory, Access::WRITE_OK).is_ok()
        && rustix::fs::statvfs(directory).is_ok_and(|system| {
            system.f_bavail * system.f_frsize >= ENOUGH_ROOM
                && !system.f_flag.contains(StatVfsMountFlags::NOEXEC)
        })
}

fn directory_on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).find(|directory| directory.join("nix").is_file())
}

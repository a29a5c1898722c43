//! Tests inside user, mount and network namespaces of their own, where they may mount small file systems and take
//! the network away. Needs what Nix's own sandbox needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fleet_testkit::short_temp_dir;

/// Names, inside, a directory that whoever is outside removes.
const INSIDE: &str = "FLEET_TEST_NAMESPACE";

/// A setting that daemons need inside, where there is one user only.
pub const DAEMON_SETTING: (&str, &str) = ("require-drop-supplementary-groups", "false");

/// Runs `test` with a place for mounts when it is inside already, else runs the test of this name again inside.
pub fn in_namespaces(name: &str, test: impl FnOnce(&Path)) {
    if let Some(place) = std::env::var_os(INSIDE) {
        Network::up();
        return test(Path::new(&place));
    }
    let place = short_temp_dir();
    let program = std::env::current_exe().expect("a test has a path");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--net", "--"])
        .arg(program)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, place.path())
        .output()
        .expect("unshare starts (util-linux; this test needs user namespaces, as Nix's sandbox does)");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "inside the namespaces:\n{said}");
}

/// Whether this process is inside.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// The loopback interface inside: all the network there is.
#[derive(Clone, Copy, Debug)]
pub struct Network;

impl Network {
    /// Lets packets pass.
    pub fn up() {
        Self::set("up");
    }

    /// Lets no packet pass; whoever is connected is not told.
    pub fn down() {
        Self::set("down");
    }

    fn set(state: &str) {
        let set = Command::new("ip").args(["link", "set", "lo", state]).status();
        assert!(set.expect("ip starts (iproute2)").success(), "the interface is set {state}");
    }
}

/// Mounts a file system of this size, as tmpfs writes sizes.
pub fn small_file_system(directory: PathBuf, size: &str) -> PathBuf {
    fs::create_dir_all(&directory).expect("a mount point");
    let size = format!("size={size},mode=755");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &size, "small"]).arg(&directory);
    assert!(mount.status().expect("mount starts").success(), "a small file system is mounted");
    directory
}

/// Leaves no room in a small file system.
pub fn fill(directory: &Path) {
    // All that fits; the last write fails, which is the point.
    let _ = fs::write(directory.join("filler"), vec![0_u8; 64 << 20]);
}

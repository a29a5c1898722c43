//! An SSH server on loopback that lets its own key in and runs one Nix daemon's `nix-daemon --stdio`.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fleet_testkit::NixDaemon;
use tempfile::TempDir;

/// Where sshd looks for an empty directory of its own, compiled in.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

/// A running server; dropping it ends it.
#[derive(Debug)]
pub struct SshServer {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl SshServer {
    /// In front of this daemon; none, with the reason, where no SSH server can be started.
    pub fn start(sshd: &Path, daemon: &NixDaemon) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(PRIVILEGE_SEPARATION)
            .map_err(|error| format!("cannot create {PRIVILEGE_SEPARATION}: {error}"))?;
        for key in ["host", "client"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(at(key))
                .status()
                .map_err(|error| format!("ssh-keygen: {error}"))?;
            if !made.success() {
                return Err(format!("ssh-keygen ended with {made}"));
            }
        }
        let remote = format!(
            "#!/bin/sh\nexport NIX_REMOTE='{}' NIX_CONF_DIR='{}' HOME='{}'\nexec '{}' \"$@\"\n",
            daemon.store_uri(),
            daemon.conf_dir().display(),
            daemon.home().display(),
            daemon.bin().join("nix-daemon").display(),
        );
        fs::write(at("nix-daemon"), remote).map_err(|error| error.to_string())?;
        fs::set_permissions(at("nix-daemon"), Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
        let address = free_address();
        let log = fs::File::create(at("log")).map_err(|error| error.to_string())?;
        // sshd wants a user of its own, which this machine may not have: in its own view of the files there is one.
        let users = fs::read_to_string("/etc/passwd").map_err(|error| error.to_string())?;
        let nobody = format!("sshd:x:65534:65534::{PRIVILEGE_SEPARATION}:/usr/sbin/nologin\n");
        fs::write(at("passwd"), users + &nobody).map_err(|error| error.to_string())?;
        let child = Command::new("unshare")
            .args(["--mount", "/bin/sh", "-c", r#"mount --bind "$0" /etc/passwd && exec "$@""#])
            .arg(at("passwd"))
            .arg(sshd)
            .args(["-D", "-e", "-f", "/dev/null"])
            .args(["-o", &format!("ListenAddress={}", address.ip())])
            .args(["-o", &format!("Port={}", address.port())])
            .args(["-o", &format!("HostKey={}", at("host").display())])
            .args(["-o", &format!("AuthorizedKeysFile={}", at("client.pub").display())])
            .args(["-o", "UsePAM=no", "-o", "StrictModes=no", "-o", "PermitRootLogin=yes"])
            .args(["-o", &format!("PidFile={}", at("pid").display())])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let server = Self { child, address, directory };
        server.wait_until_it_listens()?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `nix copy --from` takes.
    pub fn store_uri(&self) -> String {
        format!("ssh-ng://root@127.0.0.1?remote-program={}", self.path("nix-daemon").display())
    }

    /// What `NIX_SSHOPTS` must say for a server at this address, which may be another's that leads here.
    pub fn options(&self, at: SocketAddr) -> String {
        let key = self.path("client");
        format!(
            "-p {} -i {} -F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            at.port(),
            key.display()
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn wait_until_it_listens(&self) -> Result<(), String> {
        let began = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if began.elapsed() > Duration::from_secs(10) {
                let log = fs::read_to_string(self.path("log")).unwrap_or_default();
                return Err(format!("the SSH server does not listen:\n{log}"));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("a bound socket has an address")
}

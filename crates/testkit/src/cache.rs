//! A binary cache on loopback: a directory that `nix copy` fills, served over HTTP.
//!
//! Serves files of that one directory and nothing else; remembers what was asked for.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tempfile::TempDir;

use crate::daemon::NixDaemon;
use crate::installation::short_temp_dir;

/// Longest request line that is read.
const MAX_LINE: u64 = 8 * 1024;

/// A served directory; dropping it ends the server and removes the directory.
#[derive(Debug)]
pub struct BinaryCache {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
    _directory: TempDir,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    ended: AtomicBool,
    failing: AtomicBool,
    requests: Mutex<Vec<String>>,
}

impl BinaryCache {
    /// An empty cache, served from now on.
    pub fn start() -> BinaryCache {
        let directory = short_temp_dir();
        fs::write(
            directory.path().join("nix-cache-info"),
            "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n",
        )
        .expect("nix-cache-info is written");
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port on loopback");
        let address = listener.local_addr().expect("the port's number");
        let shared = Arc::new(Shared {
            directory: directory.path().to_owned(),
            ended: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            requests: Mutex::new(Vec::new()),
        });
        let server = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        BinaryCache { address, shared, server: Some(server), _directory: directory }
    }

    /// What `substituters` takes.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The served directory.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// Copies the closures of store paths (or installables) from a daemon's store into the cache.
    pub fn publish<S: AsRef<str>>(&self, daemon: &NixDaemon, paths: &[S]) {
        let to = format!("file://{}?compression=none", self.directory().display());
        let mut arguments = vec!["copy", "--to", &to];
        arguments.extend(paths.iter().map(AsRef::as_ref));
        daemon.nix_stdout(arguments);
    }

    /// Answers everything but nix-cache-info with 500 from now on.
    pub fn fail(&self) {
        self.shared.failing.store(true, Ordering::SeqCst);
    }

    /// The paths asked for so far, such as `/nix-cache-info`.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for BinaryCache {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, so that it sees the end.
        if let (Ok(_), Some(server)) = (TcpStream::connect(self.address), self.server.take()) {
            let _ = server.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        if let Ok(stream) = stream {
            let shared = Arc::clone(shared);
            thread::spawn(move || serve(&stream, &shared));
        }
    }
}

/// Answers requests until the client hangs up.
fn serve(stream: &TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    while let Some((method, path)) = read_request(&mut reader) {
        shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        let found = file_of(&shared.directory, &path).and_then(|file| fs::read(file).ok());
        let fails = shared.failing.load(Ordering::SeqCst) && path != "/nix-cache-info";
        let (status, body) = match found {
            _ if fails => ("500 Internal Server Error", Vec::new()),
            Some(body) => ("200 OK", body),
            None => ("404 Not Found", Vec::new()),
        };
        let mut answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        if method != "HEAD" {
            answer.extend(body);
        }
        // In one piece: a second one would wait until the first is acknowledged.
        let mut writer = stream;
        if writer.write_all(&answer).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<(String, String)> {
    let first = read_line(reader)?;
    let mut words = first.split(' ');
    let request = (words.next()?.to_owned(), words.next()?.to_owned());
    while !read_line(reader)?.is_empty() {}
    Some(request)
}

fn read_line(reader: &mut BufReader<&TcpStream>) -> Option<String> {
    let mut line = String::new();
    let read = std::io::Read::take(&mut *reader, MAX_LINE).read_line(&mut line).ok()?;
    (read > 0).then(|| line.trim_end().to_owned())
}

fn file_of(directory: &Path, path: &str) -> Option<PathBuf> {
    let relative = path.split('?').next()?.trim_start_matches('/');
    let plain = relative.split('/').all(|part| !part.is_empty() && part != "..");
    plain.then(|| directory.join(relative))
}

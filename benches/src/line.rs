//! A line between two ends on loopback: counts what passes and, if wanted, brings it later. Unlike a slow proxy it
//! keeps the order of a real distance: many bytes may be under way at once.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

const PIECE: usize = 64 << 10;
/// Pieces under way in one direction of one connection.
const UNDER_WAY: usize = 4096;

/// A line to one server.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    passed: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Line {
    /// Each byte arrives `delay` after it was sent, in either direction.
    pub fn to(server: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (passed, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, ending) = (Arc::clone(&passed), Arc::clone(&ended));
        thread::spawn(move || {
            for near in listener.incoming() {
                if ending.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(server)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone(), to.try_clone());
                    let (from, to) = (from.expect("a socket has a copy"), to.expect("a socket has a copy"));
                    join(from, to, delay, &counter);
                }
            }
        });
        Self { address, passed, ended }
    }

    /// Where its near end is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that passed in both directions since the last call.
    pub fn take_passed(&self) -> u64 {
        self.passed.swap(0, Ordering::AcqRel)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn join(mut from: TcpStream, to: TcpStream, delay: Duration, passed: &Arc<AtomicU64>) {
    let _ = to.set_nodelay(true);
    let (pieces, under_way): (SyncSender<(Instant, Vec<u8>)>, _) = sync_channel(UNDER_WAY);
    let passed = Arc::clone(passed);
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            passed.fetch_add(read as u64, Ordering::AcqRel);
            if pieces.send((Instant::now() + delay, buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || deliver(to, &under_way));
}

fn deliver(mut to: TcpStream, under_way: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, bytes)) = under_way.recv() {
        while let Some(wait) = due.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero()) {
            thread::park_timeout(wait);
        }
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

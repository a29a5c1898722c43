//! A TCP proxy on loopback that can be told to be a bad network: silent in one direction or both, slow, or broken
//! after so many bytes.
//!
//! Owns its listener and its connections; dropping it breaks all of them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

const PIECE: usize = 16 << 10;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who connected to the server.
    Upstream,
    /// Back.
    Downstream,
}

/// What the network does to one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weather {
    /// Nothing passes, and nobody is told.
    silent: bool,
    /// Bytes a second; none for as fast as it goes.
    rate: Option<u32>,
    /// How long each piece takes.
    delay: Duration,
    /// After this many bytes the connection breaks.
    left: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    up: Weather,
    down: Weather,
    streams: Vec<TcpStream>,
    accepted: usize,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A proxy in front of one server.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stopping: Arc<AtomicBool>,
}

impl FaultProxy {
    /// Listens on a free port and connects each caller to `server`, over a perfect network at first.
    pub fn start(server: SocketAddr) -> FaultProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let (accepting, ending) = (shared.clone(), stopping.clone());
        thread::spawn(move || {
            for near in listener.incoming() {
                if ending.load(Ordering::Acquire) {
                    return;
                }
                if let Ok(near) = near
                    && let Ok(far) = TcpStream::connect(server)
                {
                    connect(&accepting, near, far);
                }
            }
        });
        FaultProxy { address, shared, stopping }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets nothing pass in this direction until [`FaultProxy::heal`]; both ends believe to be connected.
    pub fn silence(&self, direction: Direction) {
        self.change(direction, |weather| weather.silent = true);
    }

    /// Lets this many bytes a second pass, each piece after a delay.
    pub fn slow_down(&self, direction: Direction, bytes_per_second: u32, delay: Duration) {
        self.change(direction, |weather| {
            weather.rate = Some(bytes_per_second.max(1));
            weather.delay = delay;
        });
    }

    /// Breaks every connection once this many more bytes have passed in this direction.
    pub fn break_after(&self, direction: Direction, bytes: u64) {
        self.change(direction, |weather| weather.left = Some(bytes));
    }

    /// A perfect network again. Connections that broke stay broken.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        state.up = Weather::default();
        state.down = Weather::default();
        self.shared.changed.notify_all();
    }

    /// Breaks every connection there is.
    pub fn cut(&self) {
        for stream in self.shared.lock().streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }

    /// How many connections were made so far.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }

    fn change(&self, direction: Direction, change: impl FnOnce(&mut Weather)) {
        let mut state = self.shared.lock();
        change(state.weather(direction));
        self.shared.changed.notify_all();
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.shared.lock().closed = true;
        self.cut();
        // Wakes the accept loop.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until bytes may pass; how many of `wanted`, or none when the connection is to break.
    fn pass(&self, direction: Direction, wanted: usize) -> Option<usize> {
        let mut state = self.lock();
        while state.weather(direction).silent && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let weather = state.weather(direction);
        let mut pause = weather.delay;
        if let Some(rate) = weather.rate {
            pause += Duration::from_secs(1) * u32::try_from(wanted).unwrap_or(u32::MAX) / rate;
        }
        let passed = match &mut weather.left {
            Some(left) => {
                let passed = wanted.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= passed as u64;
                passed
            }
            None => wanted,
        };
        // A perfect network is as fast as it goes.
        if !pause.is_zero() {
            let slowed = self.changed.wait_timeout_while(state, pause, |state| !state.closed);
            state = slowed.unwrap_or_else(PoisonError::into_inner).0;
        }
        (!state.closed).then_some(passed)
    }
}

impl State {
    fn weather(&mut self, direction: Direction) -> &mut Weather {
        match direction {
            Direction::Upstream => &mut self.up,
            Direction::Downstream => &mut self.down,
        }
    }
}

fn connect(shared: &Arc<Shared>, near: TcpStream, far: TcpStream) {
    let copies = (near.try_clone(), far.try_clone(), near.try_clone(), far.try_clone());
    let (Ok(near_copy), Ok(far_copy), Ok(kept_near), Ok(kept_far)) = copies else { return };
    {
        let mut state = shared.lock();
        state.accepted += 1;
        state.streams.extend([kept_near, kept_far]);
    }
    let (up, down) = (shared.clone(), shared.clone());
    thread::spawn(move || pump(&up, Direction::Upstream, near, far_copy));
    thread::spawn(move || pump(&down, Direction::Downstream, far, near_copy));
}

fn pump(shared: &Shared, direction: Direction, mut from: TcpStream, mut to: TcpStream) {
    let mut piece = vec![0; PIECE];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        let Some(passed) = shared.pass(direction, read) else { break };
        if to.write_all(&piece[..passed]).is_err() || passed < read {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut reader = stream.try_clone().expect("a copy");
                    let _ = std::io::copy(&mut reader, &mut { stream });
                });
            }
        });
        address
    }

    fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.write_all(b"hello")?;
        stream.read_exact(&mut [0; 5])
    }

    #[test]
    fn silence_is_not_noticed_by_the_connection_and_ends_with_healing() {
        let proxy = FaultProxy::start(echo());
        let mut stream = TcpStream::connect(proxy.address()).expect("connects");
        exchange(&mut stream).expect("a perfect network");
        proxy.silence(Direction::Downstream);
        let error = exchange(&mut stream).expect_err("nothing comes back");
        assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
        proxy.heal();
        stream.read_exact(&mut [0; 5]).expect("what was held back arrives");
    }

    #[test]
    fn connections_break_after_so_many_bytes_and_when_they_are_cut() {
        let proxy = FaultProxy::start(echo());
        let mut stream = TcpStream::connect(proxy.address()).expect("connects");
        exchange(&mut stream).expect("a perfect network");
        proxy.break_after(Direction::Downstream, 3);
        assert!(exchange(&mut stream).is_err());
        proxy.heal();
        let mut stream = TcpStream::connect(proxy.address()).expect("connects");
        exchange(&mut stream).expect("a new connection is whole");
        proxy.cut();
        assert!(exchange(&mut stream).is_err());
        assert_eq!(proxy.accepted(), 2);
    }
}

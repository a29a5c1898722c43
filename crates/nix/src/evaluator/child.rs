//! Starts a program so that it cannot outlive us, and ends it with everything it started.
//!
//! Linux ends a child when the *thread* that forked it ends, not the process: so one thread that never ends
//! forks all of them. Each child leads a process group of its own: a terminal's Ctrl-C is ours to handle.

use std::io;
use std::process::ExitStatus;
use std::sync::{OnceLock, mpsc};
use std::thread;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{ChildStderr, ChildStdin, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A running program; dropping it kills its process group.
#[derive(Debug)]
pub(super) struct Child(tokio::process::Child);

struct Order {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

impl Child {
    /// Starts the command. The runtime that calls this reaps the child.
    pub(super) async fn spawn(mut command: Command) -> io::Result<Child> {
        command.process_group(0).kill_on_drop(true);
        let (reply, answer) = oneshot::channel();
        let order = Order { command, runtime: Handle::current(), reply };
        spawner()?.send(order).map_err(|_| io::Error::other("the spawning thread is gone"))?;
        answer.await.map_err(|_| io::Error::other("the spawning thread is gone"))?
    }

    pub(super) fn stdin(&mut self) -> Option<ChildStdin> {
        self.0.stdin.take()
    }

    pub(super) fn stderr(&mut self) -> Option<ChildStderr> {
        self.0.stderr.take()
    }

    /// The process's id, until it has been waited for.
    pub(super) fn id(&self) -> Option<u32> {
        self.0.id()
    }

    /// Ends the whole group and waits for the program.
    pub(super) async fn end(&mut self) -> io::Result<ExitStatus> {
        self.kill();
        self.0.wait().await
    }

    /// Waits until the program ends by itself.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }

    fn kill(&self) {
        // Before it is waited for, nobody else can have the number.
        let group = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawner() -> io::Result<mpsc::Sender<Order>> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    if let Some(orders) = SPAWNER.get() {
        return Ok(orders.clone());
    }
    let (orders, received) = mpsc::channel::<Order>();
    thread::Builder::new().name("spawner".into()).spawn(move || {
        for mut order in received {
            let _runtime = order.runtime.enter();
            die_with_parent(&mut order.command);
            let _ = order.reply.send(order.command.spawn().map(Child));
        }
    })?;
    // A second thread that lost this race ends with its channel, before it was given anything.
    Ok(SPAWNER.get_or_init(|| orders).clone())
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "the parent-death signal can only be set between fork and exec")]
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    // SAFETY: the closure makes two system calls and allocates nothing, which is allowed after a fork.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the signal was set: then nobody would send it.
            if rustix::process::getppid() == Some(parent) {
                Ok(())
            } else {
                Err(io::ErrorKind::NotConnected.into())
            }
        });
    }
}

/// Elsewhere the end of standard input has to do.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command) {}

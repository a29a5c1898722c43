//! Starts a program so that it cannot outlive us, and ends it with everything it started.
//!
//! Linux ends a child when the *thread* that forked it ends, not the process: so one thread that never ends
//! forks all of them. Each child leads a session of its own: a terminal's Ctrl-C is ours to handle, and git has no
//! terminal to ask for passwords on.

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
        command.kill_on_drop(true);
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
        let group = self.group();
        let status = self.0.wait().await;
        // Nobody else has the number while one of the group lives, and the last one's end is a moment ago.
        end_group(group);
        status
    }

    fn kill(&self) {
        // Before it is waited for, nobody else can have the number.
        end_group(self.group());
    }

    fn group(&self) -> Option<Pid> {
        self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
    }
}

fn end_group(group: Option<Pid>) {
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
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
            prepare(&mut order.command);
            let _ = order.reply.send(order.command.spawn().map(Child));
        }
    })?;
    // A second thread that lost this race ends with its channel, before it was given anything.
    Ok(SPAWNER.get_or_init(|| orders).clone())
}

#[allow(unsafe_code, reason = "a session can only be made between fork and exec")]
fn prepare(command: &mut Command) {
    let parent = rustix::process::getpid();
    // SAFETY: the closure makes a few system calls and allocates nothing, which is allowed after a fork.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            die_with(parent)
        });
    }
}

#[cfg(target_os = "linux")]
fn die_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the signal was set: then nobody would send it.
    if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
}

/// Elsewhere the end of standard input has to do.
#[cfg(not(target_os = "linux"))]
fn die_with(_: Pid) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt as _, BufReader};

    use super::*;

    /// A shell that starts a process, says which, and goes on with `then`.
    async fn start(then: &str) -> (Child, u32) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("sleep 1000 2>/dev/null & echo $! >&2; {then}")]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Child::spawn(command).await.expect("a shell");
        let mut lines = BufReader::new(child.stderr().expect("its output")).lines();
        let grandchild =
            lines.next_line().await.expect("a line").expect("a number").parse().expect("a number");
        (child, grandchild)
    }

    async fn is_gone(process: u32) -> bool {
        let waiting = move || fleet_testkit::wait_until_gone(process, Duration::from_secs(30));
        tokio::task::spawn_blocking(waiting).await.expect("it waits")
    }

    #[tokio::test]
    async fn what_a_program_started_ends_with_it_however_it_ends() {
        let (mut child, grandchild) = start("exit 3").await;
        assert_eq!(child.wait().await.expect("it ends").code(), Some(3));
        assert!(is_gone(grandchild).await, "it outlived its parent");
        let (mut child, grandchild) = start("wait").await;
        child.end().await.expect("it ends");
        assert!(is_gone(grandchild).await, "it outlived its parent");
        let (child, grandchild) = start("wait").await;
        drop(child);
        assert!(is_gone(grandchild).await, "it outlived its parent");
    }

    #[tokio::test]
    async fn a_program_has_no_terminal() {
        let (child, grandchild) = start("wait").await;
        for process in [child.id().expect("it lives"), grandchild] {
            let process = Pid::from_raw(process.cast_signed());
            let session = rustix::process::getsid(process).expect("it lives");
            assert_eq!(Some(session), child.group());
        }
    }
}

//! Holds what evaluators wrote against the garbage collector, on one connection that lives as long as the proxy.
//!
//! Each client's own connection roots its paths too, until it ends: so this one may lag a little, and a
//! session waits for it before it goes. Bounded: a root ends only with its connection, so when there are too many
//! the newer half is held on a new one, and the older half let go.

use std::collections::{HashSet, VecDeque};

use tokio::sync::{mpsc, oneshot};

use crate::StorePath;
use crate::daemon::{Daemon, DaemonAddress, DaemonError};

/// How many orders may wait.
const BACKLOG: usize = 1024;

/// Hands paths to the connection that holds them.
#[derive(Clone, Debug)]
pub(super) struct Roots(mpsc::Sender<Order>);

#[derive(Debug)]
enum Order {
    Hold(StorePath),
    Settle(oneshot::Sender<()>),
}

impl Roots {
    /// Connects, so that a daemon that cannot be reached is known at the start. Holds at most `limit` paths.
    pub(super) async fn start(address: DaemonAddress, limit: usize) -> Result<Roots, DaemonError> {
        let daemon = Daemon::connect_without_settings(&address).await?;
        let (orders, received) = mpsc::channel(BACKLOG);
        let holder = Holder { address, limit, daemon, paths: HashSet::new(), order: VecDeque::new() };
        tokio::spawn(holder.run(received));
        Ok(Roots(orders))
    }

    /// Holds a path until the proxy ends.
    pub(super) async fn hold(&self, path: StorePath) {
        let _ = self.0.send(Order::Hold(path)).await;
    }

    /// Waits until everything ordered before is held.
    pub(super) async fn settle(&self) {
        let (done, settled) = oneshot::channel();
        let _ = self.0.send(Order::Settle(done)).await;
        let _ = settled.await;
    }
}

struct Holder {
    address: DaemonAddress,
    limit: usize,
    daemon: Daemon,
    paths: HashSet<StorePath>,
    /// The same, oldest first.
    order: VecDeque<StorePath>,
}

impl Holder {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Hold(path) => {
                    if self.paths.insert(path.clone()) {
                        self.order.push_back(path);
                        self.hold_newest().await;
                    }
                }
                Order::Settle(done) => _ = done.send(()),
            }
        }
    }

    async fn hold_newest(&mut self) {
        let held = if self.order.len() > self.limit {
            let older = self.order.len() - self.limit / 2;
            self.order.drain(..older).for_each(|path| _ = self.paths.remove(&path));
            self.reconnect().await
        } else {
            match self.daemon.add_temp_roots(self.order.back()).await {
                Ok(()) | Err(DaemonError::Remote(_)) => Ok(()),
                // The connection was lost, and everything it held with it.
                Err(_) => self.reconnect().await,
            }
        };
        if let Err(error) = held {
            tracing::warn!(%error, "what evaluators wrote is not held against garbage collection");
        }
    }

    async fn reconnect(&mut self) -> Result<(), DaemonError> {
        let mut daemon = Daemon::connect_without_settings(&self.address).await?;
        daemon.add_temp_roots(&self.order).await?;
        self.daemon = daemon;
        Ok(())
    }
}

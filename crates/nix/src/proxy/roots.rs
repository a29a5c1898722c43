//! Holds what evaluators wrote against the garbage collector, on one connection that lives as long as the proxy.
//!
//! Each client's own connection roots its paths too, until it ends: so this one may lag a little, and a
//! session waits for it before it goes.

use std::collections::HashSet;

use tokio::sync::{mpsc, oneshot};

use crate::StorePath;
use crate::daemon::{DaemonAddress, DaemonError};

use super::upstream::Upstream;

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
    /// Connects, so that a daemon that cannot be reached is known at the start.
    pub(super) async fn start(address: DaemonAddress) -> Result<Roots, DaemonError> {
        let upstream = Upstream::connect(&address).await?;
        let (orders, received) = mpsc::channel(BACKLOG);
        tokio::spawn(hold(address, upstream, received));
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

async fn hold(address: DaemonAddress, upstream: Upstream, mut orders: mpsc::Receiver<Order>) {
    let mut upstream = Some(upstream);
    let mut held = HashSet::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Hold(path) => {
                if held.insert(path.clone())
                    && let Err(error) = add(&address, &mut upstream, &held, &path).await
                {
                    tracing::warn!(%error, "what evaluators wrote is not held against garbage collection");
                    upstream = None;
                }
            }
            Order::Settle(done) => _ = done.send(()),
        }
    }
}

/// Roots one path; a connection that was lost is made again, with all it held.
async fn add(
    address: &DaemonAddress,
    upstream: &mut Option<Upstream>,
    held: &HashSet<StorePath>,
    path: &StorePath,
) -> Result<(), DaemonError> {
    if let Some(connected) = upstream
        && connected.add_temp_root(path).await.is_ok()
    {
        return Ok(());
    }
    let mut fresh = Upstream::connect(address).await?;
    for path in held {
        fresh.add_temp_root(path).await?;
    }
    *upstream = Some(fresh);
    Ok(())
}

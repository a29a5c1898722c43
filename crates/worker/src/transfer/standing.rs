//! How paths stand with the coordinator, and telling it of those that it never heard of. Decides nothing about them.

use std::collections::BTreeMap;

use fleet_nix::PathInfo;
use fleet_nix::signature::PublicKey;
use fleet_nix::store_path::{StoreDir, StorePath};
use fleet_wire::v1;

use super::{MAX_ASKED, Patience, Transfer, TransferError};
use crate::infos::to_wire;

pub(crate) use v1::PathStanding as Standing;

impl Transfer {
    /// How each of `paths` stands.
    pub(crate) async fn look(
        &self,
        paths: impl IntoIterator<Item = &StorePath>,
    ) -> Result<BTreeMap<StorePath, Standing>, TransferError> {
        let paths: Vec<&StorePath> = paths.into_iter().collect();
        let mut standings = BTreeMap::new();
        for asked in paths.chunks(MAX_ASKED) {
            let names: Vec<String> = asked.iter().map(ToString::to_string).collect();
            let mut patience = Patience::default();
            let reply = loop {
                match self.paths().look(v1::LookRequest { paths: names.clone() }).await {
                    Ok(reply) => break reply.into_inner(),
                    Err(status) => patience.after(status.into()).await?,
                }
            };
            add(&mut standings, asked, &reply.standings)?;
        }
        Ok(standings)
    }

    /// Tells of paths that only their content or an upstream cache vouches for, each after its references. Says how
    /// each stands then: unknown, if it is not believed.
    pub(crate) async fn vouch(
        &self,
        infos: &[impl AsRef<PathInfo>],
        right: v1::WorkRight,
    ) -> Result<BTreeMap<StorePath, Standing>, TransferError> {
        let mut standings = BTreeMap::new();
        for told in infos.chunks(MAX_ASKED) {
            let mut patience = Patience::default();
            let reply = loop {
                let requests: Vec<_> = told
                    .iter()
                    .map(|info| v1::VouchRequest { right: Some(right), info: Some(to_wire(info.as_ref())) })
                    .collect();
                match self.paths().vouch(futures::stream::iter(requests)).await {
                    Ok(reply) => break reply.into_inner(),
                    Err(status) => patience.after(status.into()).await?,
                }
            };
            let paths: Vec<&StorePath> = told.iter().map(|info| &info.as_ref().path).collect();
            add(&mut standings, &paths, &reply.standings)?;
        }
        Ok(standings)
    }
}

fn add(
    standings: &mut BTreeMap<StorePath, Standing>,
    paths: &[&StorePath],
    replied: &[i32],
) -> Result<(), TransferError> {
    if paths.len() != replied.len() {
        let (asked, told) = (paths.len(), replied.len());
        return Err(TransferError::Described(format!("it was asked of {asked} paths and told of {told}")));
    }
    for (path, standing) in paths.iter().zip(replied) {
        standings.insert(StorePath::clone(path), Standing::try_from(*standing).unwrap_or(Standing::Unknown));
    }
    Ok(())
}

/// Whether the coordinator will believe what this store says of a path, though nobody built it under a lease.
#[derive(Debug)]
pub(crate) struct Vouchers {
    upstream: Vec<PublicKey>,
}

impl Vouchers {
    /// As the coordinator's welcome has them.
    pub(crate) fn of(welcome: &v1::Welcome) -> Self {
        Self { upstream: welcome.upstream_keys.iter().filter_map(|key| key.parse().ok()).collect() }
    }

    /// Its content or an upstream cache says what it is.
    pub(crate) fn vouch_for(&self, store: &StoreDir, info: &PathInfo) -> bool {
        info.is_content_addressed(store) || info.is_signed_by(store, &self.upstream)
    }
}

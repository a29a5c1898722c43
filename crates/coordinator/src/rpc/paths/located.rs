//! An answer to a worker that looks for paths, in messages: infos and tickets get their signatures here.

use fleet_identity::unix_now;
use fleet_paths::Standing;
use fleet_store::Manifest;
use fleet_wire::v1;
use fleet_wire::v1::located::Located;
use futures::{Stream, StreamExt};
use tonic::Status;

use crate::infos;
use crate::internal_key::InternalKeys;
use crate::shell::{Found, LocateAnswer};

/// How long a ticket is good: it is shown when fetching begins.
const TICKET_SECONDS: u64 = 600;
/// Paths signed at a time, off the threads that serve.
const SIGNED_TOGETHER: usize = 64;

/// Holders, paths, and what nobody has. `manifests` are in the order of the paths.
pub(super) fn messages(
    answer: LocateAnswer,
    manifests: Vec<Option<Manifest>>,
    keys: InternalKeys,
) -> impl Stream<Item = Result<v1::Located, Status>> + Send {
    let holders = holders(&answer, &keys);
    let LocateAnswer { found, lost, .. } = answer;
    let signed =
        futures::stream::iter(found.into_iter().zip(manifests)).chunks(SIGNED_TOGETHER).then(move |some| {
            let keys = keys.clone();
            async move {
                let signed = tokio::task::spawn_blocking(move || -> Vec<Located> {
                    some.into_iter()
                        .map(|(found, manifest)| Located::Path(path(&found, manifest, &keys)))
                        .collect()
                });
                signed.await.unwrap_or_default()
            }
        });
    let lost: Vec<Located> = if lost.is_empty() {
        Vec::new()
    } else {
        vec![Located::Lost(v1::LostPaths { paths: lost.iter().map(ToString::to_string).collect() })]
    };
    let before = futures::stream::iter(holders.into_iter().map(Located::Holder));
    let after = futures::stream::iter(lost);
    let all = before.chain(signed.flat_map(futures::stream::iter)).chain(after);
    all.map(|located| Ok(v1::Located { located: Some(located) }))
}

fn holders(answer: &LocateAnswer, keys: &InternalKeys) -> Vec<v1::Holder> {
    let mut paths = vec![Vec::new(); answer.holders.len()];
    for found in &answer.found {
        for position in &found.holders {
            paths[*position as usize].push(found.info.path.to_string());
        }
    }
    let expires = unix_now() + TICKET_SECONDS;
    let mut holders = Vec::with_capacity(paths.len());
    for ((name, addresses), paths) in answer.holders.iter().zip(paths) {
        let (holder, receiver) = (name.to_string(), answer.receiver.to_string());
        let ticket = keys.sign_ticket(&v1::TicketBody { holder, receiver, expires, paths });
        let (worker, addresses) = (name.to_string(), addresses.to_vec());
        holders.push(v1::Holder { worker, addresses, ticket: Some(ticket) });
    }
    holders
}

fn path(found: &Found, manifest: Option<Manifest>, keys: &InternalKeys) -> v1::LocatedPath {
    let mut info = infos::to_wire(&found.info);
    info.signatures = vec![keys.sign_info(&found.info).to_string()];
    let chunk = |piece: &fleet_store::Piece| v1::ChunkRef {
        digest: piece.digest.0.to_vec().into(),
        size: piece.size,
    };
    v1::LocatedPath {
        info: Some(info),
        holders: found.holders.clone(),
        manifest: manifest
            .map(|manifest| v1::Manifest { chunks: manifest.pieces.iter().map(chunk).collect() }),
        upstream: found.standing == Standing::Upstream,
    }
}

//! Path infos between the protocol and what is known of paths. Checks their form, not whether they are true.

use std::collections::BTreeSet;

use fleet_nix::store_path::StorePathError;
use fleet_nix::{NarHash, PathInfo, StorePath};
use fleet_wire::v1;
use thiserror::Error;

const MAX_REFERENCES: usize = 1 << 16;
const MAX_SIGNATURES: usize = 64;
const MAX_SIGNATURE: usize = 1024;
/// Of a text that is quoted.
const EXCERPT: usize = 80;

/// What is wrong with the form of an info.
#[derive(Debug, Error)]
pub(crate) enum InfoError {
    #[error("{0:?} is not a store path")]
    Path(String, #[source] StorePathError),
    #[error("{path} has a bad {what}")]
    Bad { path: StorePath, what: &'static str },
    #[error("{path} has more {what} than the {limit} that are taken")]
    TooMany { path: StorePath, what: &'static str, limit: usize },
}

/// A base name.
pub(crate) fn store_path(text: &str) -> Result<StorePath, InfoError> {
    text.parse().map_err(|error| InfoError::Path(text.chars().take(EXCERPT).collect(), error))
}

/// Base names.
pub(crate) fn store_paths(texts: &[String]) -> Result<Vec<StorePath>, InfoError> {
    texts.iter().map(|text| store_path(text)).collect()
}

/// As somebody sent it.
pub(crate) fn from_wire(info: &v1::PathInfo) -> Result<PathInfo, InfoError> {
    let path = store_path(&info.path)?;
    let bad = |what| InfoError::Bad { path: path.clone(), what };
    let too_many = |what, limit| InfoError::TooMany { path: path.clone(), what, limit };
    if info.references.len() > MAX_REFERENCES {
        return Err(too_many("references", MAX_REFERENCES));
    }
    if info.signatures.len() > MAX_SIGNATURES {
        return Err(too_many("signatures", MAX_SIGNATURES));
    }
    let signature = |text: &String| (text.len() <= MAX_SIGNATURE).then(|| text.parse().ok()).flatten();
    let signatures = info.signatures.iter().map(signature).collect::<Option<_>>();
    let content_address = match &*info.content_address {
        "" => None,
        text => Some(text.parse().map_err(|_| bad("content address"))?),
    };
    let deriver = Some(&info.deriver).filter(|deriver| !deriver.is_empty());
    let references = info.references.iter().map(|path| store_path(path));
    Ok(PathInfo {
        deriver: deriver.map(|deriver| store_path(deriver)).transpose()?,
        nar_hash: NarHash(info.nar_hash.as_ref().try_into().map_err(|_| bad("NAR hash"))?),
        references: references.collect::<Result<BTreeSet<_>, _>>()?,
        registration_time: 0,
        nar_size: info.nar_size,
        ultimate: false,
        signatures: signatures.ok_or_else(|| bad("signature"))?,
        content_address,
        path,
    })
}

/// As others are told.
pub(crate) fn to_wire(info: &PathInfo) -> v1::PathInfo {
    v1::PathInfo {
        path: info.path.to_string(),
        nar_hash: info.nar_hash.0.to_vec().into(),
        nar_size: info.nar_size,
        references: info.references.iter().map(ToString::to_string).collect(),
        deriver: info.deriver.as_ref().map(ToString::to_string).unwrap_or_default(),
        content_address: info.content_address.as_ref().map(ToString::to_string).unwrap_or_default(),
        signatures: info.signatures.iter().map(ToString::to_string).collect(),
        ..v1::PathInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> v1::PathInfo {
        v1::PathInfo {
            path: "00000000000000000000000000000000-a".into(),
            nar_hash: vec![1; 32].into(),
            nar_size: 7,
            references: vec!["11111111111111111111111111111111-b".into()],
            deriver: "22222222222222222222222222222222-a.drv".into(),
            ..v1::PathInfo::default()
        }
    }

    #[test]
    fn an_info_survives_the_way_there_and_back() {
        assert_eq!(to_wire(&from_wire(&sound()).expect("sound")), sound());
    }

    #[test]
    fn what_is_no_info_is_refused() {
        let change = |change: &dyn Fn(&mut v1::PathInfo)| {
            let mut info = sound();
            change(&mut info);
            info
        };
        let bad = [
            change(&|info| info.path = "../etc".into()),
            change(&|info| info.nar_hash = vec![1; 31].into()),
            change(&|info| info.references.push("/nix/store/x".into())),
            change(&|info| info.references = vec![info.path.clone(); MAX_REFERENCES + 1]),
            change(&|info| info.deriver = "a".into()),
            change(&|info| info.content_address = "fixed:r:sha256:!".into()),
            change(&|info| info.signatures = vec!["no signature".into()]),
            change(&|info| info.signatures = vec![format!("k:{}", "A".repeat(2_000))]),
            change(&|info| info.signatures = vec!["k:AA==".into(); MAX_SIGNATURES + 1]),
        ];
        for info in bad {
            from_wire(&info).expect_err("refused");
        }
    }
}

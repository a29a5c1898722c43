//! Marks of what is published, in the object store. Owns their layout (`published/ab/<hash part>`); each holds the base
//! name of a store path. That a mark comes after its manifest is up to its writer.

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;

use crate::StoreError;
use crate::manifests::shelf;
use crate::objects::{Content, Listed, Objects};

const SHELVES: &str = "published";
/// Characters before the name in a base name.
const HASH_PART: usize = 32;
/// Base names of store paths have 244 characters at most.
const MAX_MARK: u64 = 255;

/// Marks by hash part, shared by its clones.
#[derive(Clone, Debug)]
pub struct Published {
    objects: Objects,
}

impl Published {
    pub(crate) fn new(objects: Objects) -> Self {
        Self { objects }
    }

    /// Marks a path as published; durable when this returns.
    pub async fn set(&self, base_name: &str) -> Result<(), StoreError> {
        let path = location(hash_part(base_name)?)?;
        let mark = bytes::Bytes::copy_from_slice(base_name.as_bytes());
        if self.get(hash_part(base_name)?).await?.as_deref() == Some(base_name) {
            return self.objects.sync(vec![path]).await;
        }
        self.objects.replace(&path, mark).await
    }

    /// The base name that is published with this hash part, if one is. A damaged mark is none.
    pub async fn get(&self, hash: &str) -> Result<Option<String>, StoreError> {
        let Some(Content::Whole(mark)) = self.objects.read(&location(hash)?, MAX_MARK).await? else {
            return Ok(None);
        };
        let name =
            std::str::from_utf8(&mark).ok().filter(|name| hash_part(name).is_ok_and(|part| part == hash));
        Ok(name.map(str::to_owned))
    }

    /// The hash parts of all that is published, as they are found.
    pub fn list(&self) -> BoxStream<'static, Result<Listed<String>, StoreError>> {
        let named = |found: object_store::ObjectMeta| {
            let name = found.location.filename()?.to_owned();
            (location(&name).ok()? == found.location).then(|| Listed {
                name,
                size: found.size,
                modified: found.last_modified.into(),
            })
        };
        self.objects.list(SHELVES).try_filter_map(move |found| std::future::ready(Ok(named(found)))).boxed()
    }

    /// Removes the marks of these hash parts, as far as they are here; durable when this returns.
    pub async fn clear(&self, hashes: &[String]) -> Result<(), StoreError> {
        let paths = hashes.iter().map(|hash| location(hash)).collect::<Result<_, _>>()?;
        self.objects.delete(paths).await
    }
}

fn hash_part(base_name: &str) -> Result<&str, StoreError> {
    shelf(base_name)?;
    // Names are ASCII.
    match base_name.split_at_checked(HASH_PART) {
        Some((hash, rest)) if rest.len() > 1 && rest.starts_with('-') => Ok(hash),
        _ => Err(StoreError::Name(base_name.to_owned())),
    }
}

fn location(hash: &str) -> Result<Path, StoreError> {
    if hash.len() != HASH_PART || !hash.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(StoreError::Name(hash.chars().take(80).collect()));
    }
    Ok(Path::from_iter([SHELVES, shelf(hash)?, hash]))
}

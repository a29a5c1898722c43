//! Manifests in the object store. Owns their layout (`manifests/ab/abcdef…`) and that of two with one name the first
//! stays. That a manifest comes after its chunks is up to its keeper.

use futures::StreamExt;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;

use crate::StoreError;
use crate::manifest::{MAX_MANIFEST, Manifest};
use crate::objects::{Content, Created, Durable, Listed, Objects};

const SHELVES: &str = "manifests";
/// How often a manifest is written that is not there when somebody else is said to have written it.
const ATTEMPTS: usize = 3;

/// What became of a manifest that was to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is kept now.
    Now,
    /// There was one of this name, which stays.
    Before(Manifest),
}

/// Manifests by name, shared by its clones. Names are base names of store paths, or look like them.
#[derive(Clone, Debug)]
pub struct Manifests {
    objects: Objects,
}

impl Manifests {
    pub(crate) fn new(objects: Objects) -> Self {
        Self { objects }
    }

    /// Whether there is one of this name. It may turn out to be damaged when it is read.
    pub async fn has(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.objects.size(&location(name)?).await?.is_some())
    }

    /// Reads one; a damaged one is set aside, so that it can be kept again.
    pub async fn read(&self, name: &str) -> Result<Option<Manifest>, StoreError> {
        match self.load(name).await {
            Err(StoreError::DamagedManifest(_)) => {}
            loaded => return loaded,
        }
        let mut again = None;
        let still_damaged = async {
            match self.load(name).await {
                Ok(found) => again = found,
                Err(StoreError::DamagedManifest(_)) => return Ok(true),
                Err(other) => return Err(other),
            }
            Ok(false)
        };
        self.objects.set_aside(&location(name)?, still_damaged).await?;
        again.map(Some).ok_or_else(|| StoreError::DamagedManifest(name.to_owned()))
    }

    /// Keeps a manifest whose chunks are durable already; durable itself when this returns. Of two with one name the
    /// first stays.
    pub async fn keep(&self, name: &str, manifest: &Manifest) -> Result<Kept, StoreError> {
        let path = location(name)?;
        let bytes = encode(name, manifest)?;
        for _ in 0..ATTEMPTS {
            match self.objects.create(&path, bytes.clone(), Durable::AtOnce).await? {
                Created::Now => return Ok(Kept::Now),
                Created::Before => match self.read(name).await {
                    Ok(Some(earlier)) => return Ok(Kept::Before(earlier)),
                    Ok(None) | Err(StoreError::DamagedManifest(_)) => {}
                    Err(other) => return Err(other),
                },
            }
        }
        Err(StoreError::DamagedManifest(name.to_owned()))
    }

    /// Keeps a manifest in the place of what there was: for the same contents in other frames.
    pub async fn replace(&self, name: &str, manifest: &Manifest) -> Result<(), StoreError> {
        self.objects.replace(&location(name)?, encode(name, manifest)?).await
    }

    /// All that are kept, as they are found.
    pub fn list(&self) -> BoxStream<'static, Result<Listed<String>, StoreError>> {
        let named = |found: object_store::ObjectMeta| {
            let name = plain(found.location.filename()?);
            (location(&name).ok()? == found.location).then(|| Listed {
                name,
                size: found.size,
                modified: found.last_modified.into(),
            })
        };
        self.objects.list(SHELVES).try_filter_map(move |found| std::future::ready(Ok(named(found)))).boxed()
    }

    /// Sets one aside that cannot be what it should be, so that it can be kept again.
    pub async fn forget(&self, name: &str) -> Result<(), StoreError> {
        let path = location(name)?;
        if self.objects.size(&path).await?.is_some() {
            self.objects.set_aside(&path, std::future::ready(Ok(true))).await?;
        }
        Ok(())
    }

    /// Removes these, as far as they are here; durable when this returns.
    pub async fn delete(&self, names: &[String]) -> Result<(), StoreError> {
        let paths = names.iter().map(|name| location(name)).collect::<Result<_, _>>()?;
        self.objects.delete(paths).await
    }

    async fn load(&self, name: &str) -> Result<Option<Manifest>, StoreError> {
        let damaged = || StoreError::DamagedManifest(name.to_owned());
        match self.objects.read(&location(name)?, MAX_MANIFEST).await? {
            None => Ok(None),
            Some(Content::TooLarge(_)) => Err(damaged()),
            Some(Content::Whole(bytes)) => {
                let decoded = tokio::task::spawn_blocking({
                    let name = name.to_owned();
                    move || Manifest::decode(&name, &bytes)
                });
                decoded.await.map_err(|_| StoreError::Interrupted)?.map(Some).ok_or_else(damaged)
            }
        }
    }
}

fn encode(name: &str, manifest: &Manifest) -> Result<bytes::Bytes, StoreError> {
    let bytes = manifest.encode(name);
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(StoreError::TooLarge(bytes.len() as u64));
    }
    Ok(bytes.into())
}

fn location(name: &str) -> Result<Path, StoreError> {
    Ok(Path::from_iter([SHELVES, shelf(name)?, name]))
}

/// The directory of a name: its first two characters, if it is a name at all.
pub(crate) fn shelf(name: &str) -> Result<&str, StoreError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    let prefix = name.get(..2).filter(|prefix| prefix.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    match prefix {
        Some(prefix) if name.len() > 2 && name.len() <= 255 && name.bytes().all(plain) => Ok(prefix),
        _ => Err(StoreError::Name(name.chars().take(80).collect())),
    }
}

/// A name as it was before it became part of a key: of the characters of names, keys cannot have one.
fn plain(part: &str) -> String {
    part.replace("%3F", "?")
}

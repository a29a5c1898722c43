//! The one object store below chunks, manifests and marks: a directory or S3. Owns what differs between the two
//! (durability, conditional creation, unfinished files) and where damaged objects go; knows no contents.

mod directory;
mod s3;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::sync::Mutex;

use self::directory::Directory;
use crate::{ChunkStore, Manifests, Place, Published, StoreError};

/// Where damaged objects go, for people to look at.
const DAMAGED: &str = "damaged";
/// So many of them are kept; the bytes of further ones are lost.
const MAX_DAMAGED: usize = 64;
/// Sizes that one thread asks the file system for.
const STATS: usize = 1_024;
/// Threads that do so for one caller.
const STATS_AT_ONCE: usize = 4;
/// Sizes that S3 is asked for at once: each takes a round trip.
const HEADS_AT_ONCE: usize = 64;

/// What a listing says of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<Name> {
    /// Its name.
    pub name: Name,
    /// Bytes as they are kept.
    pub size: u64,
    /// When it was written, by the clock of the store.
    pub modified: SystemTime,
}

/// Whether an object survives a loss of power from the moment that it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    /// It does.
    AtOnce,
    /// Only when [`Objects::sync`] has returned.
    WhenSynced,
}

/// What became of an object that was to be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// It is there now.
    Now,
    /// There was one, which stays.
    Before,
}

/// An object store, shared by its clones.
#[derive(Clone, Debug)]
pub struct Objects(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Place,
    store: Arc<dyn ObjectStore>,
    directory: Option<Directory>,
    /// Held by who sets damaged objects aside, so that nobody sets aside what was just put in their place.
    setting_aside: Mutex<()>,
    /// Held by who creates an object where the store itself cannot tell whether there is one.
    creating: Mutex<()>,
}

impl Objects {
    /// The store in this place. A directory is created; of S3 only the settings are looked at: credentials, region and
    /// endpoint come from the `AWS_*` variables of the environment.
    pub fn open(place: &Place) -> Result<Self, StoreError> {
        let texts = std::env::vars_os().map(|(key, value)| (key.into_string(), value.into_string()));
        Self::open_with(place, texts.filter_map(|(key, value)| Some((key.ok()?, value.ok()?))))
    }

    /// As [`Objects::open`], with these variables in the place of the process's own.
    pub fn open_with(
        place: &Place,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, StoreError> {
        let setup = |error| StoreError::Setup { place: place.to_string(), source: Box::new(error) };
        let (store, directory): (Arc<dyn ObjectStore>, _) = match place {
            Place::Directory(root) => {
                let directory = Directory::create(root, setup)?;
                (Arc::new(directory.durable()), Some(directory))
            }
            Place::S3 { bucket, prefix } => (s3::open(bucket, prefix, environment).map_err(setup)?, None),
        };
        let place = place.clone();
        let locks = (Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Inner { place, store, directory, setting_aside: locks.0, creating: locks.1 })))
    }

    /// Whether the store answers, and lets us in.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let listed = self.0.store.list(Some(&Path::from(DAMAGED))).next().await.transpose();
        listed.map(drop).map_err(|error| self.failed("reach", &Path::from("objects"), error))
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// Its chunks.
    pub fn chunks(&self) -> ChunkStore {
        ChunkStore::new(self.clone())
    }

    /// Its manifests.
    pub fn manifests(&self) -> Manifests {
        Manifests::new(self.clone())
    }

    /// Its marks of what is published.
    pub fn published(&self) -> Published {
        Published::new(self.clone())
    }

    /// Writes an object, unless there is one of this name.
    pub(crate) async fn create(
        &self,
        path: &Path,
        bytes: Bytes,
        durable: Durable,
    ) -> Result<Created, StoreError> {
        let once = PutOptions::from(PutMode::Create);
        let put = match &self.0.directory {
            Some(directory) if durable == Durable::WhenSynced => {
                directory.quick().put_opts(path, bytes.into(), once).await
            }
            _ => match self.0.store.put_opts(path, bytes.clone().into(), once).await {
                Err(Error::NotImplemented { .. }) => {
                    return self.create_unconditionally(path, bytes, durable).await;
                }
                put => put,
            },
        };
        match put {
            Ok(_) => Ok(Created::Now),
            Err(Error::AlreadyExists { .. }) => {
                if durable == Durable::AtOnce {
                    // Whoever wrote it may not be done.
                    self.sync(vec![path.clone()]).await?;
                }
                Ok(Created::Before)
            }
            Err(error) => Err(self.failed("write", path, error)),
        }
    }

    /// There is no other writer than this process.
    async fn create_unconditionally(
        &self,
        path: &Path,
        bytes: Bytes,
        durable: Durable,
    ) -> Result<Created, StoreError> {
        let _alone = match durable {
            Durable::AtOnce => Some(self.0.creating.lock().await),
            // Of these, two with one name are the same thing.
            Durable::WhenSynced => None,
        };
        if self.size(path).await?.is_some() {
            return Ok(Created::Before);
        }
        self.replace(path, bytes).await.map(|()| Created::Now)
    }

    /// Writes an object in the place of whatever was there.
    pub(crate) async fn replace(&self, path: &Path, bytes: Bytes) -> Result<(), StoreError> {
        let put = self.0.store.put(path, bytes.into()).await;
        put.map(drop).map_err(|error| self.failed("write", path, error))
    }

    /// Reads an object, if it is there; one with more than `limit` bytes is not read.
    pub(crate) async fn read(&self, path: &Path, limit: u64) -> Result<Option<Content>, StoreError> {
        let found = match self.0.store.get(path).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed("read", path, error)),
        };
        if found.meta.size > limit {
            return Ok(Some(Content::TooLarge(found.meta.size)));
        }
        let bytes = found.bytes().await.map_err(|error| self.failed("read", path, error))?;
        Ok(Some(Content::Whole(bytes)))
    }

    /// Bytes of an object, if it is there.
    pub(crate) async fn size(&self, path: &Path) -> Result<Option<u64>, StoreError> {
        match self.0.store.head(path).await {
            Ok(found) => Ok(Some(found.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("look for", path, error)),
        }
    }

    /// Bytes of each object that is there, in the order of the paths.
    pub(crate) fn sizes(
        &self,
        paths: impl Stream<Item = Path> + Send + 'static,
    ) -> BoxStream<'static, Result<Option<u64>, StoreError>> {
        let objects = self.clone();
        if let Some(directory) = self.0.directory.clone() {
            // To ask the file system costs less than to ask a thread to do so: each asks for many.
            let batches = paths.chunks(STATS).map(move |batch| directory.clone().sizes(batch));
            return batches.buffered(STATS_AT_ONCE).map_ok(futures::stream::iter).try_flatten().boxed();
        }
        let asked = paths.map(move |path| {
            let objects = objects.clone();
            async move { objects.size(&path).await }
        });
        asked.buffered(HEADS_AT_ONCE).boxed()
    }

    /// All objects below `prefix`, as they are found: a listing under way may show what is deleted meanwhile.
    pub(crate) fn list(&self, prefix: &'static str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let objects = self.clone();
        let listed = self.0.store.list(Some(&Path::from(prefix)));
        listed.map_err(move |error| objects.failed("list", &Path::from(prefix), error)).boxed()
    }

    /// Removes these, as far as they are there; durable when this returns.
    pub(crate) async fn delete(&self, paths: Vec<Path>) -> Result<(), StoreError> {
        let shelves: BTreeSet<Path> = paths.iter().map(shelf).collect();
        let locations = futures::stream::iter(paths).map(Ok).boxed();
        let mut deleted = self.0.store.delete_stream(locations);
        while let Some(one) = deleted.next().await {
            match one {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(self.failed("delete", &Path::from("objects"), error)),
            }
        }
        match &self.0.directory {
            Some(directory) => directory.clone().sync_shelves(shelves).await,
            None => Ok(()),
        }
    }

    /// Moves an object out of the way, unless `still_damaged` says, now that nobody else does so, that it is whole
    /// again. Answers whether it did.
    pub(crate) async fn set_aside(
        &self,
        path: &Path,
        still_damaged: impl Future<Output = Result<bool, StoreError>> + Send,
    ) -> Result<bool, StoreError> {
        let _alone = self.0.setting_aside.lock().await;
        if !still_damaged.await? {
            return Ok(false);
        }
        let kept = self.0.store.list(Some(&Path::from(DAMAGED))).take(MAX_DAMAGED).count().await;
        let aside: Path = Path::from(DAMAGED).parts().chain(path.parts()).collect();
        let moved = if kept < MAX_DAMAGED {
            self.0.store.rename(path, &aside).await
        } else {
            self.0.store.delete(path).await
        };
        match moved {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(self.failed("set aside", path, error)),
        }
    }

    /// Returns when these objects survive a loss of power. One that is not there is an error.
    pub(crate) async fn sync(&self, paths: Vec<Path>) -> Result<(), StoreError> {
        match &self.0.directory {
            Some(directory) => directory.clone().sync(paths).await,
            None => Ok(()),
        }
    }

    /// Removes what a crash left half-written, once it is `older_than` that; answers how many files it was.
    pub async fn remove_unfinished(&self, older_than: Duration) -> Result<u64, StoreError> {
        match &self.0.directory {
            Some(directory) => directory.clone().remove_unfinished(older_than).await,
            None => Ok(0),
        }
    }

    fn failed(&self, doing: &'static str, path: &Path, source: Error) -> StoreError {
        let (object, place) = (path.to_string(), self.0.place.to_string());
        StoreError::Objects { doing, object, place, source: Box::new(source) }
    }
}

/// What is in an object.
#[derive(Debug)]
pub(crate) enum Content {
    /// All of it.
    Whole(Bytes),
    /// It has so many bytes, which are more than it may have.
    TooLarge(u64),
}

/// The directory of an object.
fn shelf(path: &Path) -> Path {
    let parts: Vec<_> = path.parts().collect();
    parts[..parts.len().saturating_sub(1)].iter().cloned().collect()
}

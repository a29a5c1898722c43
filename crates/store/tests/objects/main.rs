//! The object store as its users see it: the same promises on a directory and on a server that speaks S3.

mod chunks;
mod manifests;
mod published;
mod reading;
mod s3;
mod store;

/// Runs tests of a [`store::Store`] on each kind of store.
macro_rules! on_every_store {
    ($($name:ident)+) => {
        mod in_a_directory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::store::Store::in_a_directory()).await;
            })+
        }
        mod in_s3 {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::store::Store::in_s3()).await;
            })+
        }
    };
}
pub(crate) use on_every_store;

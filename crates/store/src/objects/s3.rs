//! Objects in S3. Owns how long it may take; everything else is said by the environment.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

/// For one request, whose body is a megabyte as a rule.
const REQUEST_WITHIN: Duration = Duration::from_mins(1);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a request is tried again.
const RETRY_FOR: Duration = Duration::from_secs(45);

pub(super) fn open(
    bucket: &str,
    prefix: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    // Whichever was chosen first for this process stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = ClientOptions::new().with_timeout(REQUEST_WITHIN).with_connect_timeout(CONNECT_WITHIN);
    let retry = RetryConfig { retry_timeout: RETRY_FOR, ..RetryConfig::default() };
    let builder = AmazonS3Builder::new().with_client_options(client).with_retry(retry);
    let settings = environment.into_iter().filter_map(|(key, value)| {
        let key = key.starts_with("AWS_").then(|| key.to_ascii_lowercase())?;
        Some((key.parse::<AmazonS3ConfigKey>().ok()?, value))
    });
    let builder = settings.fold(builder, |builder, (key, value)| builder.with_config(key, value));
    let store = builder.with_bucket_name(bucket).build()?;
    if prefix.is_empty() {
        return Ok(Arc::new(store));
    }
    Ok(Arc::new(PrefixStore::new(store, Path::from(prefix))))
}

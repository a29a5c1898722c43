//! Objects in S3. Owns how long it may take; everything else is said by the environment.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};

/// For one request, whose body is a megabyte as a rule.
const REQUEST_WITHIN: Duration = Duration::from_mins(1);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a request is tried again, with pauses that grow up to the second of these.
const RETRY_FOR: Duration = Duration::from_secs(20);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// More than there is time for.
const MAX_RETRIES: usize = 1_000;

pub(super) fn open(
    bucket: &str,
    prefix: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    // Whichever was chosen first for this process stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = ClientOptions::new().with_timeout(REQUEST_WITHIN).with_connect_timeout(CONNECT_WITHIN);
    let backoff = BackoffConfig { max_backoff: MAX_PAUSE, ..BackoffConfig::default() };
    let retry = RetryConfig { backoff, max_retries: MAX_RETRIES, retry_timeout: RETRY_FOR };
    let builder = AmazonS3Builder::new().with_client_options(client).with_retry(retry);
    let configured = environment.into_iter().try_fold(builder, |builder, (name, value)| {
        match name.starts_with("AWS_").then(|| name.to_ascii_lowercase().parse()) {
            Some(Ok(key)) => {
                check(&name, key, &value)?;
                Ok::<_, object_store::Error>(builder.with_config(key, value))
            }
            _ => Ok(builder),
        }
    });
    let configured = configured?;
    is_allowed(&configured)?;
    let store = configured.with_bucket_name(bucket).build()?;
    if prefix.is_empty() {
        return Ok(Arc::new(store));
    }
    Ok(Arc::new(PrefixStore::new(store, Path::from(prefix))))
}

/// What the library would stumble over at the first request.
fn check(name: &str, key: AmazonS3ConfigKey, value: &str) -> Result<(), object_store::Error> {
    use AmazonS3ConfigKey::{Endpoint, MetadataEndpoint, S3Endpoint, StsEndpoint};
    if !matches!(key, Endpoint | MetadataEndpoint | S3Endpoint | StsEndpoint) {
        return Ok(());
    }
    let address: Option<Uri> = value.parse().ok();
    let is_url = address.is_some_and(|address| {
        matches!(address.scheme_str(), Some("http" | "https"))
            && address.host().is_some_and(|host| !host.is_empty())
            && address.query().is_none()
    });
    if is_url {
        return Ok(());
    }
    Err(wrong(&format!("{name}: expected http://HOST:PORT or https://HOST:PORT")))
}

fn is_allowed(builder: &AmazonS3Builder) -> Result<(), object_store::Error> {
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
    let endpoint = endpoint.iter().find_map(|key| builder.get_config_value(key));
    let allowed = builder.get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
    if endpoint.is_some_and(|url| url.starts_with("http:")) && allowed.as_deref() != Some("true") {
        return Err(wrong("AWS_ENDPOINT: without TLS only with AWS_ALLOW_HTTP=true"));
    }
    Ok(())
}

fn wrong(text: &str) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: text.into() }
}

//! What must hold between settings, and of the files they name.

use fleet_identity::keyfile;
use fleet_identity::oidc::Verifier;
use fleet_telemetry::with_causes;

use super::JournalChoice;
use super::layers::{ConfigError, Origin, Settings};
use super::value::has_password;
use crate::cache;
use crate::server::material;

/// A worker that says nothing for 30 s is lost: it must have had two chances to speak.
const MAX_HEARTBEAT_MS: u32 = 10_000;
/// A peer that is gone is noticed within 30 s: it is asked, and waited for, once each.
const MAX_KEEPALIVE_MS: u64 = 10_000;

pub(super) fn all(settings: &Settings) -> Result<(), ConfigError> {
    heartbeats(settings)?;
    tls(settings)?;
    issuers(settings)?;
    cache(settings)?;
    journal(settings)
}

fn heartbeats(settings: &Settings) -> Result<(), ConfigError> {
    let wrong = |text: String| ConfigError::new(settings.origin("workers.heartbeat"), text);
    let heartbeat = settings.config.heartbeat_ms;
    if heartbeat > MAX_HEARTBEAT_MS {
        return Err(wrong(format!("workers.heartbeat: at most {} s", MAX_HEARTBEAT_MS / 1_000)));
    }
    if u64::from(heartbeat) >= settings.config.fleet.away_ms {
        return Err(wrong("workers.heartbeat: must be shorter than workers.away".to_owned()));
    }
    if settings.config.server.keepalive_ms > MAX_KEEPALIVE_MS {
        let text = format!("server.keepalive: at most {} s", MAX_KEEPALIVE_MS / 1_000);
        return Err(ConfigError::new(settings.origin("server.keepalive"), text));
    }
    Ok(())
}

fn tls(settings: &Settings) -> Result<(), ConfigError> {
    let tls = &settings.config.server.tls;
    let wrong = |key: &str, text: &str| Err(ConfigError::new(settings.origin(key), format!("{key}: {text}")));
    if tls.authority_keys.len() > tls.authorities.len() {
        return wrong("tls.authority_keys", "there are more than tls.authorities");
    }
    if tls.certificate.is_some() != tls.key.is_some() {
        return match &tls.key {
            Some(_) => wrong("tls.key", "needs tls.certificate"),
            None => wrong("tls.certificate", "needs tls.key"),
        };
    }
    if let Err(error) = material::given_authority(&settings.config) {
        return wrong("tls.authorities", &with_causes(&error));
    }
    match material::given_server(&settings.config) {
        Err(error) => wrong("tls.certificate", &with_causes(&error)),
        Ok(_) => Ok(()),
    }
}

fn issuers(settings: &Settings) -> Result<(), ConfigError> {
    for (number, origin) in settings.issuers.iter().enumerate() {
        // Each with those before it: two of one name are wrong together.
        let issuers = settings.config.oidc[..=number].to_vec();
        let mut files = issuers[number].jwks_file.iter().chain(&issuers[number].ca_file);
        let read = files.try_for_each(|file| keyfile::read_public(file).map(drop));
        let wrong = |text: String| ConfigError::new(origin.clone(), format!("oidc: {text}"));
        read.map_err(|error| wrong(with_causes(&error)))?;
        Verifier::new(issuers).map_err(|error| wrong(with_causes(&error)))?;
    }
    Ok(())
}

fn cache(settings: &Settings) -> Result<(), ConfigError> {
    let keys = &settings.config.cache.keys;
    let wrong = |text: &str| ConfigError::new(settings.origin("cache.keys"), format!("cache.keys: {text}"));
    if let Some(plain) = keys.iter().find(|key| !settings.config.secret_file(key).is_absolute()) {
        let text = format!(
            "{}: a plain name is a credential, and there is no CREDENTIALS_DIRECTORY",
            plain.display()
        );
        return Err(wrong(&text));
    }
    cache::keys::given(&settings.config).map(drop).map_err(|error| wrong(&with_causes(&error)))
}

fn journal(settings: &Settings) -> Result<(), ConfigError> {
    let (journal, origin) = (&settings.config.journal, settings.origin("journal"));
    match journal {
        JournalChoice::Postgres(url) if has_password(url) => {
            if let Origin::File { path, .. } = &origin
                && let Err(error) = keyfile::read_private(path)
            {
                let cause = with_causes(&error);
                return Err(ConfigError::new(origin, format!("journal: it holds a password, and {cause}")));
            }
        }
        JournalChoice::Postgres(_) => {}
        _ if settings.config.standby => {
            let text = "standby: only a PostgreSQL journal is shared by several coordinators";
            return Err(ConfigError::new(settings.origin("standby"), text));
        }
        _ => {}
    }
    Ok(())
}

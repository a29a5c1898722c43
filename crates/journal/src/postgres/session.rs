//! One connection to the server: its settings, its lock, its signs of life. Owns the tasks that drive it; knows
//! nothing of tables.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_postgres::{Client, Config, NoTls, Statement};

use super::tables::failed;
use crate::error::JournalError;

/// Oldest server with the settings below, as it numbers itself.
const OLDEST_SERVER: i32 = 140_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The server ends the session of a coordinator that it does not hear from, be it stopped or cut off: only then can
/// another take over. What the server or the location say about that goes first.
const SETTINGS: &str = "
    SELECT set_config('idle_session_timeout', '25s', false) WHERE current_setting('idle_session_timeout') = '0';
    SET idle_in_transaction_session_timeout = '25s';
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = 25000;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';";
const SILENCE_MS: &str = "SELECT setting::bigint FROM pg_settings WHERE name = 'idle_session_timeout'";
/// Signs of life within the time after which the server ends a session.
const SIGNS_OF_LIFE: u64 = 3;

/// The journal's lock: one for each schema that holds the journal's tables.
const LOCK: &str = "1718379882, hashtext(coalesce(current_schema(), ''))";
const HOLDER: &str = "
    SELECT format('%s (server process %s)', activity.application_name, activity.pid)
    FROM pg_locks AS locks JOIN pg_stat_activity AS activity USING (pid)
    WHERE locks.locktype = 'advisory' AND locks.granted
      AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND locks.classid::bigint = 1718379882
      AND locks.objid::bigint = hashtext(coalesce(current_schema(), ''))::bigint & 4294967295";

/// An open connection; dropping it closes it.
#[derive(Debug)]
pub(super) struct Session {
    client: Arc<Client>,
    tasks: Vec<JoinHandle<()>>,
    write: OnceCell<Statement>,
}

/// What a location says, and what we say about ourselves.
pub(super) fn configured(location: &str) -> Result<Config, JournalError> {
    let mut config: Config = location.parse().map_err(|source| JournalError::Database {
        verb: "understand the location of",
        source: Box::new(source),
    })?;
    if config.get_application_name().is_none() {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        config.application_name(format!("process {} on {host:.40}", std::process::id()));
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    config.keepalives_idle(Duration::from_secs(10));
    Ok(config)
}

impl Session {
    pub(super) async fn connect(config: &Config) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = config.connect(NoTls).await?;
        let client = Arc::new(client);
        let driver = tokio::spawn(async move {
            // Its error is that of every request on it.
            let _ = connection.await;
        });
        let mut session = Self { client, tasks: vec![driver], write: OnceCell::new() };
        session.client.batch_execute(SETTINGS).await?;
        let silence_ms: i64 = session.client.query_one(SILENCE_MS, &[]).await?.try_get(0)?;
        session.live(Duration::from_millis(silence_ms.cast_unsigned().div_ceil(SIGNS_OF_LIFE).max(1)));
        Ok(session)
    }

    /// Lets the server hear from us as long as this process runs.
    fn live(&mut self, interval: Duration) {
        let client = self.client.clone();
        self.tasks.push(tokio::spawn(async move {
            let mut beat = tokio::time::interval(interval);
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                beat.tick().await;
                if client.simple_query("").await.is_err() {
                    return;
                }
            }
        }));
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The statement that every change is made with, planned once.
    pub(super) async fn prepared_write(&self, text: &str) -> Result<Statement, tokio_postgres::Error> {
        self.write.get_or_try_init(|| self.client.prepare(text)).await.cloned()
    }

    /// Refuses a server that cannot keep its side.
    pub(super) async fn check_server(&self) -> Result<(), JournalError> {
        let version = "SELECT current_setting('server_version_num')::int";
        let row = self.client.query_one(version, &[]).await.map_err(failed("reach"))?;
        if row.try_get::<_, i32>(0).map_err(failed("reach"))? < OLDEST_SERVER {
            return Err(JournalError::Unsupported("PostgreSQL older than 14"));
        }
        Ok(())
    }

    /// Takes the journal's lock if nobody has it. It is held as long as the session lives.
    pub(super) async fn try_lock(&self) -> Result<bool, tokio_postgres::Error> {
        let row = self.client.query_one(&format!("SELECT pg_try_advisory_lock({LOCK})"), &[]).await?;
        row.try_get(0)
    }

    /// Waits until the journal's lock is free and takes it.
    pub(super) async fn wait_for_lock(&self) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(&format!("SELECT pg_advisory_lock({LOCK})")).await
    }

    /// Who has the lock, as far as the server tells.
    pub(super) async fn holder(&self) -> String {
        let unknown = || "another coordinator".to_owned();
        match self.client.query_opt(HOLDER, &[]).await {
            Ok(Some(row)) => row.try_get(0).unwrap_or_else(|_| unknown()),
            _ => unknown(),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

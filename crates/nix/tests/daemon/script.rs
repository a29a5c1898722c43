//! A daemon that is only bytes: what it says is fixed beforehand, what it hears is kept.
//!
//! Words and strings are spelled out here instead of with the crate's own encoder, so that an error there
//! cannot hide.

use fleet_nix::StoreDir;
use fleet_nix::daemon::{Daemon, DaemonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

pub(crate) const LAST: u64 = 0x616c_7473;
pub(crate) const ERROR: u64 = 0x6378_7470;
pub(crate) const NEXT: u64 = 0x6f6c_6d67;

/// Bytes in the making.
#[derive(Clone, Default)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Bytes {
    pub(crate) fn word(mut self, word: u64) -> Self {
        self.0.extend(word.to_le_bytes());
        self
    }

    pub(crate) fn words(self, words: &[u64]) -> Self {
        words.iter().fold(self, |bytes, word| bytes.word(*word))
    }

    pub(crate) fn text(mut self, text: &str) -> Self {
        self = self.word(text.len() as u64);
        self.0.extend(text.as_bytes());
        while !self.0.len().is_multiple_of(8) {
            self.0.push(0);
        }
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

pub(crate) fn bytes() -> Bytes {
    Bytes::default()
}

/// What a daemon of protocol 1.`minor` says up to the first request, trusting.
pub(crate) fn greeting(minor: u64, features: &[&str]) -> Bytes {
    let mut greeting = bytes().word(0x6478_696f).word(0x100 | minor);
    if minor >= 38 {
        greeting = greeting.word(features.len() as u64);
        greeting = features.iter().fold(greeting, |bytes, feature| bytes.text(feature));
    }
    greeting.text("scripted").word(1).word(LAST)
}

/// The client's half of a stream whose other half says `script` and hangs up.
pub(crate) fn play(script: Bytes) -> (UnixStream, JoinHandle<Vec<u8>>) {
    let (client, mut server) = UnixStream::pair().expect("a pair of sockets");
    let heard = tokio::spawn(async move {
        let (mut reader, mut writer) = server.split();
        let mut heard = Vec::new();
        // A client that has heard enough hangs up: neither end minds.
        let saying = async {
            let _ = writer.write_all(&script.0).await;
            let _ = writer.shutdown().await;
        };
        let hearing = async { _ = reader.read_to_end(&mut heard).await };
        tokio::join!(saying, hearing);
        heard
    });
    (client, heard)
}

/// A client that has greeted such a daemon.
pub(crate) async fn greet(script: Bytes) -> (Result<Daemon, DaemonError>, JoinHandle<Vec<u8>>) {
    let (stream, heard) = play(script);
    (Daemon::greet(stream, StoreDir::default()).await, heard)
}

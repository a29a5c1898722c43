//! For tests of this crate and of others: an issuer of CI tokens, and an https address that serves its keys.
//!
//! Only behind the feature `testing`; its RSA key stands in the repository and opens nothing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::credentials::Credentials;
use crate::tls::ServerTls;

/// A forge that signs what it is told to.
#[derive(Debug)]
pub struct TestIssuer {
    /// What stands in `iss`.
    pub url: String,
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ec_id: String,
}

/// With which of the issuer's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedWith {
    /// RS256, key id `rsa`.
    Rsa,
    /// ES256, key id `ec` and a number.
    Ec,
}

impl TestIssuer {
    /// One with an RSA key that is always the same and an EC key of its own.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn new(url: &str) -> Self {
        let written: String = include_str!("testing/issuer-rsa.b64").split_whitespace().collect();
        let rsa = STANDARD.decode(written).expect("the file is base64");
        let rsa = RsaKeyPair::from_pkcs8(&rsa).expect("the file holds an RSA key");
        Self { url: url.to_owned(), rsa, ec: ec_key(), ec_id: "ec1".to_owned() }
    }

    /// Takes another EC key, under another key id.
    pub fn rotate(&mut self) {
        self.ec = ec_key();
        self.ec_id.push('1');
    }

    /// The public keys.
    pub fn jwks(&self) -> Value {
        let rsa = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(self.rsa.public_key());
        let point = self.ec.public_key().as_ref();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "keys": [
            { "kty": "RSA", "use": "sig", "alg": "RS256", "kid": "rsa", "n": text(&rsa.n), "e": text(&rsa.e) },
            { "kty": "EC", "use": "sig", "crv": "P-256", "kid": self.ec_id,
              "x": text(&point[1..33]), "y": text(&point[33..]) },
        ] })
    }

    /// The claims of a job of `repository` on `reference`, made at `now` for five minutes.
    pub fn claims(&self, now: u64, audience: &str, repository: &str, reference: &str) -> Value {
        json!({
            "iss": self.url, "aud": audience, "sub": format!("repo:{repository}:ref:{reference}"),
            "iat": now, "nbf": now, "exp": now + 300,
            "repository": repository, "ref": reference, "event_name": "push",
        })
    }

    /// A token as a forge makes it.
    pub fn token(&self, claims: &Value, with: SignedWith) -> String {
        let header = match with {
            SignedWith::Rsa => json!({ "typ": "JWT", "alg": "RS256", "kid": "rsa" }),
            SignedWith::Ec => json!({ "typ": "JWT", "alg": "ES256", "kid": self.ec_id }),
        };
        self.token_with_header(&header, claims, with)
    }

    /// A token with any header, signed nonetheless.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn token_with_header(&self, header: &Value, claims: &Value, with: SignedWith) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let random = SystemRandom::new();
        let signature = match with {
            SignedWith::Rsa => {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                let made = self.rsa.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature);
                made.expect("an RSA key signs");
                signature
            }
            SignedWith::Ec => {
                let made = self.ec.sign(&random, signed.as_bytes());
                made.expect("an EC key signs").as_ref().to_vec()
            }
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn ec_key() -> EcdsaKeyPair {
    let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("the system gives randomness");
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("it was made here")
}

/// An https server on loopback that gives every asker the same answer, until it is dropped.
#[derive(Debug)]
pub struct HttpsAnswer {
    /// Where it listens.
    pub address: SocketAddr,
    answer: Arc<Mutex<(u16, Vec<u8>)>>,
    asked: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl HttpsAnswer {
    /// Shows these credentials, which should be for `127.0.0.1`; answers 200 with `body`.
    ///
    /// # Panics
    /// When no port can be had, or the credentials are of no use.
    pub async fn serve(credentials: &Credentials, body: impl Into<Vec<u8>>) -> Self {
        let tls = ServerTls::new(credentials).expect("the credentials can be used");
        let acceptor = TlsAcceptor::from(tls.config());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let answer = Arc::new(Mutex::new((200, body.into())));
        let asked = Arc::new(AtomicUsize::new(0));
        let (given, counted) = (answer.clone(), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (status, body) = given.lock().expect("nobody panics with it").clone();
                tokio::spawn(answer_one(acceptor.clone(), stream, status, body));
            }
        });
        Self { address, answer, asked, task: task.abort_handle() }
    }

    /// What it answers from now on.
    ///
    /// # Panics
    /// Never: nobody panics with the answer.
    pub fn set(&self, status: u16, body: impl Into<Vec<u8>>) {
        *self.answer.lock().expect("nobody panics with it") = (status, body.into());
    }

    /// Connections so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for HttpsAnswer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The asker may be gone at any point: then there is nothing more to do for it.
async fn answer_one(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    status: u16,
    body: Vec<u8>,
) -> std::io::Result<()> {
    const MAX_HEADER: usize = 16 * 1024;
    let mut stream = acceptor.accept(stream).await?;
    let mut header = vec![];
    while !header.ends_with(b"\r\n\r\n") && header.len() < MAX_HEADER {
        header.push(stream.read_u8().await?);
    }
    let head = format!(
        "HTTP/1.1 {status} answer\r\nlocation: https://127.0.0.1:1/\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await
}

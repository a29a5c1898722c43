//! An HTTP client that sends exactly what a test wants, good or bad.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tower::ServiceExt as _;

use crate::running::{Running, connect, within};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in small letters.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) content: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }

    /// What says what is there, and not when or how it came.
    pub(crate) fn facts(&self) -> (u16, Vec<(String, String)>) {
        let passing = ["date", "connection"];
        let mut headers = self.headers.clone();
        headers.retain(|(name, _)| !passing.contains(&name.as_str()));
        headers.sort();
        (self.status, headers)
    }
}

/// A TLS connection for the older HTTP, with or without a word about it in the handshake.
pub(crate) async fn older(running: &Running, agreed: bool) -> TlsStream<TcpStream> {
    let mut tls = (*running.tls(None)).clone();
    tls.alpn_protocols = if agreed { vec![b"http/1.1".to_vec()] } else { Vec::new() };
    within(connect(running.address, Arc::new(tls))).await.expect("a handshake")
}

/// Sends bytes over the older HTTP, and reads one answer, which must be all that comes.
pub(crate) async fn raw(running: &Running, request: impl AsRef<[u8]>) -> Answer {
    let mut stream = older(running, true).await;
    // It may be refused before all of it is sent.
    let _ = within(stream.write_all(request.as_ref())).await;
    let mut bytes = Vec::new();
    // An end without a goodbye of TLS is one, too.
    let _ = within(stream.read_to_end(&mut bytes)).await;
    parse(&bytes)
}

/// Asks over the older HTTP; more headers are whole lines.
pub(crate) async fn ask(running: &Running, method: &str, path: &str, headers: &str) -> Answer {
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
    raw(running, request).await
}

pub(crate) async fn get(running: &Running, path: &str, headers: &str) -> Answer {
    ask(running, "GET", path, headers).await
}

/// Asks over HTTP/2.
pub(crate) async fn newer(running: &Running, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(format!("http://coordinator{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).expect("a request");
    let answer = within(running.remote(None).oneshot(request)).await.expect("an answer");
    let (head, body) = answer.into_parts();
    let content =
        within(body.collect()).await.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes())));
    Answer { status: head.status.as_u16(), headers: headers.collect(), content: content.to_vec() }
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer, but {:?}", String::from_utf8_lossy(bytes)));
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers: Vec<_> = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let mut content = bytes[end + 4..].to_vec();
    if headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked") {
        content = unchunked(&content);
    }
    Answer { status: status.expect("a status"), headers, content }
}

/// As far as it is whole.
fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(at) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size =
            std::str::from_utf8(&bytes[..at]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(size) = size.filter(|size| *size > 0 && bytes.len() >= at + 2 + size) else { break };
        content.extend_from_slice(&bytes[at + 2..at + 2 + size]);
        bytes = bytes.get(at + 2 + size + 2..).unwrap_or_default();
    }
    content
}

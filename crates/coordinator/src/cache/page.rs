//! Answers to plain HTTP clients. No state: what is in them is decided elsewhere.

use bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use tonic::codegen::http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::access::NotAdmitted;

/// Seconds until a busy server is asked again.
const AGAIN_AFTER: &str = "10";

/// What was asked for, whole.
pub(crate) fn whole(kind: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let content = content.into();
    let length = content.len();
    let mut response = Response::new(once(content));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_LENGTH, length.into());
    // A log is what builders wrote: nothing is to guess at its meaning.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A status, and a line for people.
pub(crate) fn text(status: StatusCode, line: &str) -> Response<Body> {
    let mut response = whole("text/plain; charset=utf-8", format!("{line}\n"));
    *response.status_mut() = status;
    set(&mut response, CACHE_CONTROL, "no-store");
    response
}

/// There is none, or none for this caller: which of the two is not told.
pub(crate) fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "not found")
}

/// What comes from outside makes no sense.
pub(crate) fn bad(line: &str) -> Response<Body> {
    text(StatusCode::BAD_REQUEST, line)
}

/// Pages are read, and nothing else.
pub(crate) fn read_only() -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
    set(&mut response, ALLOW, "GET, HEAD");
    response
}

/// We cannot now, and may later.
pub(crate) fn unavailable(line: &str) -> Response<Body> {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, line);
    set(&mut response, RETRY_AFTER, AGAIN_AFTER);
    response
}

/// Why somebody is not let in; `writes` when it would have changed something.
pub(crate) fn not_admitted(why: NotAdmitted, writes: bool) -> Response<Body> {
    let again = |line| {
        let mut response = text(StatusCode::TOO_MANY_REQUESTS, line);
        set(&mut response, RETRY_AFTER, AGAIN_AFTER);
        response
    };
    match why {
        NotAdmitted::Unknown => {
            let line = "show a client token as password (netrc) or bearer token, or a client certificate";
            let mut response = text(StatusCode::UNAUTHORIZED, line);
            set(&mut response, WWW_AUTHENTICATE, "Basic realm=\"fleet\", charset=\"UTF-8\"");
            response
        }
        NotAdmitted::Forbidden if writes => text(StatusCode::FORBIDDEN, "only who has the role read"),
        NotAdmitted::Forbidden => not_found(),
        NotAdmitted::TooManyFailures => again("too many failed attempts from this address"),
        NotAdmitted::TooManyRequests => again("too many requests at a time"),
    }
}

/// The answer to this method: to HEAD, the same without its content.
pub(crate) fn of(method: &Method, response: Response<Body>) -> Response<Body> {
    if *method == Method::HEAD { response.map(|_| Body::empty()) } else { response }
}

pub(crate) fn set(response: &mut Response<Body>, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

fn once(content: Bytes) -> Body {
    Body::new(http_body_util::Full::new(content))
}

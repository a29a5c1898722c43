//! Who may read pages: what is not gRPC. The same gatekeeper, told in words that plain HTTP clients have: Nix knows
//! passwords (its netrc file), so a client token may come as one.

use fleet_identity::{Role, unix_now};
use fleet_nix::base64;
use tonic::body::Body;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{HeaderValue, Request};

use super::Caller;
use super::layer::{Gatekeeper, Shown, Token, counted_as};
use super::table::Who;
use crate::server::{OpenStream, Peer, PeerOrigin, TooMany, network};

/// Bytes of the longest user and password in base64: a forge's token is a few thousand.
const MAX_BASIC: usize = 16 << 10;

/// A request for a page that is let in.
pub(crate) struct Visitor {
    /// Held until the page is sent.
    pub(crate) stream: OpenStream<Shown>,
    /// Cut to break off.
    pub(crate) peer: Peer,
    /// Whether it has shown a role that reads, and not only come by.
    pub(crate) reads: bool,
}

/// Why a request for a page is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    /// Nothing was shown, or nothing that counts.
    Unknown,
    /// Known, and not to read.
    Forbidden,
    /// It, or another at its address, failed too often to show who it is.
    TooManyFailures,
    /// It has as many requests open as it may have.
    TooManyRequests,
}

impl Gatekeeper {
    /// Lets in who reads; strangers, too, where `strangers` may.
    pub(crate) async fn admit_visitor(
        &self,
        request: &mut Request<Body>,
        strangers: bool,
    ) -> Result<Visitor, NotAdmitted> {
        let peer = request.extensions().get::<Peer>().cloned().ok_or(NotAdmitted::Unknown)?;
        let address = match &peer.origin {
            PeerOrigin::Remote { address, .. } => Some(network(*address)),
            PeerOrigin::Here => None,
        };
        let header = request.headers_mut().remove(AUTHORIZATION);
        let now = unix_now();
        let failures = &self.0.failures;
        if header.is_some() && address.is_some_and(|address| failures.are_too_many(address, now)) {
            return Err(NotAdmitted::TooManyFailures);
        }
        let held = header.as_ref().map(token_in);
        let token = match &held {
            None => Token::Absent,
            Some(None) => Token::Unreadable("the authorization header holds no token"),
            Some(Some(token)) => Token::Shown(token),
        };
        let (caller, shown) = match self.identify(&peer, token).await {
            Ok(identified) => identified,
            Err(refused) => {
                if let Some(address) = address {
                    failures.count(address, now);
                }
                tracing::debug!(?address, "a page's reader is refused: {}", refused.message());
                return Err(NotAdmitted::Unknown);
            }
        };
        let reads = Who::Client(Role::Read).check(&caller).is_ok();
        match caller {
            _ if reads || strangers => {}
            Caller::Nobody => return Err(NotAdmitted::Unknown),
            _ => return Err(NotAdmitted::Forbidden),
        }
        let counted = counted_as(&caller, &peer);
        let stream = self.0.open.open(counted, shown).map_err(|TooMany| NotAdmitted::TooManyRequests)?;
        Ok(Visitor { stream, peer, reads })
    }
}

/// A bearer token, or the password of any user.
fn token_in(header: &HeaderValue) -> Option<String> {
    let (scheme, value) = header.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") || value.len() > MAX_BASIC {
        return None;
    }
    let both = String::from_utf8(base64::decode(value.trim()).ok()?).ok()?;
    both.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(text: &str) -> Option<String> {
        token_in(&text.parse().expect("a header"))
    }

    #[test]
    fn tokens_come_as_bearer_or_as_password() {
        assert_eq!(held("Bearer t.o.k"), Some("t.o.k".to_owned()));
        assert_eq!(held("bearer t"), Some("t".to_owned()));
        let basic = |text: &str| held(&format!("Basic {}", base64::encode(text.as_bytes())));
        assert_eq!(basic("anyone:t.o.k"), Some("t.o.k".to_owned()));
        assert_eq!(basic(":a:b"), Some("a:b".to_owned()));
        for nothing in ["Basic", "Basic !", "Digest x", "t", "Basic dXNlcg=="] {
            assert_eq!(held(nothing), None, "{nothing}");
        }
        assert_eq!(held(&format!("Basic {}", "A".repeat(MAX_BASIC + 4))), None);
    }
}

//! The printable forms of tokens: what an administrator hands to a machine or a person. Pure.
//!
//! A join token also names the coordinator's CA, so that a worker knows whom it talks to before it has anything
//! else to go by.

use std::fmt;
use std::str::FromStr;

use crate::secret::{Fingerprint, Malformed, Secret, TokenId};

/// Lets one machine become one worker, once.
#[derive(Clone, Debug)]
pub struct JoinToken {
    /// Its public number.
    pub id: TokenId,
    /// What proves its possession.
    pub secret: Secret,
    /// The public key of the CA behind the coordinator's certificate.
    pub authority: Fingerprint,
}

/// Lets its bearer act as a client.
#[derive(Clone, Debug)]
pub struct ClientToken {
    /// Its public number.
    pub id: TokenId,
    /// What proves its possession.
    pub secret: Secret,
}

/// Why a text is no token. The text itself is a secret and is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another beginning than expected.
    #[error("not a {0} token: it would begin with {0}-v1.")]
    Kind(&'static str),
    /// Cut off, or changed on the way.
    #[error("the {0} token is incomplete or has been altered")]
    Malformed(&'static str),
}

const JOIN: &str = "fleet-join";
const CLIENT: &str = "fleet-client";

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{JOIN}-v1.{}.{}.{}", self.id, self.secret.to_text(), self.authority)
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let [id, secret, authority] = parts(JOIN, text)?;
        let malformed = |Malformed| TokenError::Malformed(JOIN);
        Ok(Self {
            id: id.parse().map_err(malformed)?,
            secret: secret.parse().map_err(malformed)?,
            authority: authority.parse().map_err(malformed)?,
        })
    }
}

impl ClientToken {
    /// Whether a bearer token is meant to be one of ours, well-formed or not; CI tokens are not.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(CLIENT)
    }
}

impl fmt::Display for ClientToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CLIENT}-v1.{}.{}", self.id, self.secret.to_text())
    }
}

impl FromStr for ClientToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let [id, secret] = parts(CLIENT, text)?;
        let malformed = |Malformed| TokenError::Malformed(CLIENT);
        Ok(Self { id: id.parse().map_err(malformed)?, secret: secret.parse().map_err(malformed)? })
    }
}

fn parts<'a, const N: usize>(kind: &'static str, text: &'a str) -> Result<[&'a str; N], TokenError> {
    let rest = text.trim_ascii().strip_prefix(kind).and_then(|rest| rest.strip_prefix("-v1."));
    let mut parts = rest.ok_or(TokenError::Kind(kind))?.split('.');
    let found = [(); N].map(|()| parts.next().unwrap_or_default());
    if parts.next().is_some() { Err(TokenError::Malformed(kind)) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn join() -> JoinToken {
        JoinToken {
            id: TokenId::from_bytes([7; 8]),
            secret: Secret::from_bytes([9; 32]),
            authority: Fingerprint::of_spki(b"key"),
        }
    }

    #[test]
    fn tokens_survive_printing_and_never_show_in_debug_output() {
        let text = join().to_string();
        assert_eq!(
            format!(" {text}\n").parse::<JoinToken>().map(|token| token.to_string()),
            Ok(text.clone())
        );
        let secret = text.split('.').nth(2).expect("the secret stands third");
        assert!(!format!("{:?}", join()).contains(secret));
        let client = ClientToken { id: TokenId::random(), secret: Secret::random() };
        let again: ClientToken = client.to_string().parse().expect("it was printed");
        assert!(client.secret.hash().is_of(&again.secret));
    }

    #[test]
    fn a_token_cut_off_or_altered_at_any_byte_is_refused_without_being_repeated() {
        let text = join().to_string();
        for at in 0..text.len() {
            assert!(text[..at].parse::<JoinToken>().is_err(), "cut at {at}");
            let mut altered = text.clone();
            altered.replace_range(at..=at, "!");
            assert!(altered.parse::<JoinToken>().is_err(), "altered at {at}");
        }
        for more in [format!("{text}.x"), format!("{text}=")] {
            let error = more.parse::<JoinToken>().expect_err("there is more than a token");
            assert_eq!(error, TokenError::Malformed("fleet-join"));
        }
        assert_eq!(text.parse::<ClientToken>().err(), Some(TokenError::Kind("fleet-client")));
    }

    #[test]
    fn a_token_has_one_spelling() {
        // The last of 43 letters carries two bits that mean nothing: they must be zero.
        let text = join().to_string();
        let last = text.chars().next_back().expect("it is not empty");
        let spellings =
            ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']).filter(|letter| *letter != last);
        for letter in spellings {
            let other = format!("{}{letter}", &text[..text.len() - 1]);
            let parsed = other.parse::<JoinToken>();
            assert!(
                parsed.is_err_and(|error| error == TokenError::Malformed("fleet-join"))
                    || other.parse::<JoinToken>().is_ok_and(|token| token.authority != join().authority)
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in ".{0,300}", rest in "[-_.A-Za-z0-9]{0,200}") {
            let _ = text.parse::<JoinToken>();
            let _ = text.parse::<ClientToken>();
            let _ = format!("fleet-join-v1.{rest}").parse::<JoinToken>();
            let _ = format!("fleet-client-v1.{rest}").parse::<ClientToken>();
        }
    }
}

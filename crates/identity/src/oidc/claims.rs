//! What a token says, out of its JSON. Pure.

use serde_json::{Map, Value};

/// The claims of one token, signed or not.
#[derive(Debug)]
pub(super) struct Claims(Map<String, Value>);

impl Claims {
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok().map(Self)
    }

    pub(super) fn issuer(&self) -> Option<&str> {
        self.0.get("iss")?.as_str()
    }

    /// One text or a list of them.
    pub(super) fn has_audience(&self, wanted: &[String]) -> bool {
        let is_wanted =
            |value: &Value| value.as_str().is_some_and(|text| wanted.iter().any(|one| one == text));
        match self.0.get("aud") {
            Some(Value::Array(values)) => values.iter().any(is_wanted),
            Some(value) => is_wanted(value),
            None => false,
        }
    }

    /// Seconds since 1970: `Ok(None)` where the claim is absent, `Err` where it is no time.
    pub(super) fn time(&self, claim: &'static str) -> Result<Option<u64>, &'static str> {
        match self.0.get(claim) {
            None => Ok(None),
            Some(value) => seconds(value).map(Some).ok_or(claim),
        }
    }

    /// A claim as text: patterns see numbers and truth values as they are written.
    pub(super) fn text(&self, claim: &str) -> Option<String> {
        match self.0.get(claim)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) if !number.is_f64() => Some(number.to_string()),
            Value::Bool(value) => Some(value.to_string()),
            _ => None,
        }
    }
}

/// The standard allows fractions.
fn seconds(value: &Value) -> Option<u64> {
    const LAST: f64 = 253_402_300_799.0;
    let whole = |seconds: &f64| (0.0..=LAST).contains(seconds);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it lies between 0 and LAST")]
    value.as_f64().filter(whole).map(|seconds| seconds as u64)
}

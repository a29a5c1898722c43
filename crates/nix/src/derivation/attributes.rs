//! What a derivation's attributes say to whoever builds it, in the environment or in structured form.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::definition::Environment;
use super::{BasicDerivation, Derivation, DerivationError};

/// Where Nix keeps structured attributes.
pub const STRUCTURED_ATTRIBUTES: &[u8] = b"__json";

/// The attributes of one derivation. With structured attributes the environment says nothing, as in Nix.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    name: &'a str,
    env: &'a Environment,
    structured: Option<Map<String, Value>>,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(name: &'a str, env: &'a Environment) -> Result<Self, DerivationError> {
        Ok(Self { name, env, structured: structured_attrs(env)? })
    }

    /// An attribute that is a string (or, structured, a boolean or number, as the environment would have it).
    pub fn string(&self, name: &str) -> Option<String> {
        let Some(structured) = &self.structured else {
            return Some(String::from_utf8_lossy(self.env.get(name.as_bytes())?).into_owned());
        };
        match structured.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Bool(flag) => Some(if *flag { "1".into() } else { String::new() }),
            Value::Number(number) => Some(number.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// An attribute that is a truth value; absent is `default`.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        match &self.structured {
            Some(structured) => structured.get(name).and_then(Value::as_bool).unwrap_or(default),
            None => self.env.get(name.as_bytes()).map_or(default, |value| value == b"1"),
        }
    }

    /// An attribute that is a list of words; absent is empty.
    pub fn words(&self, name: &str) -> BTreeSet<String> {
        let Some(structured) = &self.structured else {
            let text = self.string(name).unwrap_or_default();
            return text.split_ascii_whitespace().map(str::to_owned).collect();
        };
        let items = structured.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// What a machine must offer to build this.
    pub fn required_system_features(&self) -> BTreeSet<String> {
        self.words("requiredSystemFeatures")
    }

    /// Whether building costs less than asking another machine.
    pub fn prefer_local_build(&self) -> bool {
        self.flag("preferLocalBuild", false)
    }

    /// Whether outputs may come from a cache.
    pub fn allow_substitutes(&self) -> bool {
        self.flag("allowSubstitutes", true)
    }

    /// Whether this output's references are not looked for: the builder answers for it that it needs nothing. As in
    /// Nix, only structured attributes can say so.
    pub fn discards_references(&self, output: &str) -> bool {
        let outputs = self.structured.as_ref().and_then(|all| all.get("unsafeDiscardReferences"));
        outputs.and_then(|outputs| outputs.get(output)).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Package name and version: as the attributes say, else as the name is split by Nix.
    pub fn pname_version(&self) -> (String, Option<String>) {
        match (self.string("pname"), self.string("version")) {
            (Some(pname), version) if !pname.is_empty() => (pname, version.filter(|text| !text.is_empty())),
            _ => {
                let (pname, version) = split_name(self.name);
                (pname.to_owned(), version.map(str::to_owned))
            }
        }
    }
}

impl Derivation {
    /// Structured attributes, where the derivation has them.
    pub fn structured_attrs(&self) -> Result<Option<Map<String, Value>>, DerivationError> {
        structured_attrs(&self.env)
    }
}

impl BasicDerivation {
    /// Structured attributes, where the derivation has them.
    pub fn structured_attrs(&self) -> Result<Option<Map<String, Value>>, DerivationError> {
        structured_attrs(&self.env)
    }
}

/// Splits `hello-2.12` where Nix does: at the first dash that no letter follows.
pub fn split_name(name: &str) -> (&str, Option<&str>) {
    let starts_version = |index: usize| {
        name.as_bytes()[index] == b'-'
            && name.as_bytes().get(index + 1).is_some_and(|byte| !byte.is_ascii_alphabetic())
    };
    match (0..name.len()).find(|index| starts_version(*index)) {
        Some(dash) => (&name[..dash], Some(&name[dash + 1..])),
        None => (name, None),
    }
}

fn structured_attrs(env: &Environment) -> Result<Option<Map<String, Value>>, DerivationError> {
    let Some(json) = env.get(STRUCTURED_ATTRIBUTES) else {
        return Ok(None);
    };
    let parsed = serde_json::from_slice(json);
    parsed.map(Some).map_err(|error| DerivationError::StructuredAttributes(error.to_string()))
}

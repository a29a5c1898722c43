//! Reads a configuration file into values that know their line. What they mean is the table's business.

use std::io::Read;
use std::path::Path;

use fleet_identity::oidc::IssuerConfig;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::layers::{ConfigError, Origin};
use super::value::Value;

/// A configuration file is far smaller.
const MAX_FILE: u64 = 1 << 20;

/// What a file says.
pub(super) struct Contents {
    /// Values by their full names, and where each stands.
    pub(super) values: Vec<(String, Value, Origin)>,
    /// Issuers of CI tokens.
    pub(super) oidc: Vec<(IssuerConfig, Origin)>,
}

/// The one list of tables.
const ISSUERS: &str = "oidc";

#[derive(Deserialize)]
struct Issuers {
    #[serde(default)]
    oidc: Vec<Spanned<IssuerConfig>>,
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Contents, ConfigError> {
    let text = text_of(path)?;
    let place =
        |offset: usize| Origin::File { path: path.to_owned(), line: line_at(text.as_bytes(), offset) };
    let misshapen = |error: toml::de::Error| {
        let offset = error.span().map_or(0, |span| span.start);
        ConfigError::new(place(offset), error.message().trim().replace('\n', ", "))
    };
    let table = DeTable::parse(&text).map_err(misshapen)?;
    let mut values = Vec::new();
    collect("", table.get_ref(), &place, &mut values)?;
    let issuers: Issuers = toml::from_str(&text).map_err(misshapen)?;
    let oidc = issuers.oidc.into_iter().map(|issuer| {
        let origin = place(issuer.span().start);
        (issuer.into_inner(), origin)
    });
    Ok(Contents { values, oidc: oidc.collect() })
}

fn text_of(path: &Path) -> Result<String, ConfigError> {
    let whole = |text: String| ConfigError::new(Origin::whole(path), text);
    let file = std::fs::File::open(path).map_err(|error| whole(format!("cannot be read: {error}")))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| whole(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(whole(format!("is larger than {} KiB: is it a configuration file?", MAX_FILE >> 10)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = line_at(error.as_bytes(), good);
        ConfigError::new(Origin::File { path: path.to_owned(), line }, "is not UTF-8")
    })
}

fn line_at(text: &[u8], offset: usize) -> usize {
    text[..offset.min(text.len())].split(|byte| *byte == b'\n').count()
}

/// Tables are names before a dot; one level of them is all there is.
fn collect(
    prefix: &str,
    table: &DeTable<'_>,
    place: &impl Fn(usize) -> Origin,
    values: &mut Vec<(String, Value, Origin)>,
) -> Result<(), ConfigError> {
    for (key, value) in table {
        let name = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            DeValue::Array(_) if name == ISSUERS => {}
            DeValue::Table(inner) if prefix.is_empty() => {
                collect(&format!("{name}."), inner, place, values)?;
            }
            _ => {
                let read = read_value(value)
                    .map_err(|text| ConfigError::new(place(value.span().start), format!("{name}: {text}")))?;
                values.push((name, read, place(key.span().start)));
            }
        }
    }
    Ok(())
}

fn read_value(value: &Spanned<DeValue<'_>>) -> Result<Value, String> {
    match value.get_ref() {
        DeValue::String(text) => Ok(Value::Text(text.clone().into_owned())),
        DeValue::Boolean(flag) => Ok(Value::Flag(*flag)),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map(Value::Whole)
            .map_err(|_| format!("{} is too much", number.as_str())),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            let texts: Option<Vec<_>> = texts.collect();
            texts.map(Value::List).ok_or_else(|| "expected a list of texts".to_owned())
        }
        other => Err(format!("a setting is never a {}", other.type_str())),
    }
}

//! Kinds of settings: how each is written by people and read from a file, the environment or a flag. Refusals are
//! fragments that say what is expected. No settings here: the table has them.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;

use fleet_nix::PublicKey;

use super::JournalChoice;

/// A value as it was written, whatever its setting makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A string; all that the environment and flags can say.
    Text(String),
    /// A whole number.
    Whole(i128),
    /// True or false.
    Flag(bool),
    /// Several strings.
    List(Vec<String>),
}

impl Value {
    fn text(&self) -> Result<&str, String> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Whole(number) => Err(format!("expected text in quotes, not the number {number}")),
            Self::Flag(flag) => Err(format!("expected text in quotes, not {flag}")),
            Self::List(_) => Err("expected text in quotes, not a list".to_owned()),
        }
    }
}

/// How values of a type are written and read.
pub(super) trait Kind<T> {
    /// As a person would write it in the file, without quotes.
    fn show(value: &T) -> String;
    /// The value, or what was expected.
    fn read(value: &Value) -> Result<T, String>;
}

/// Units of time from the longest, in milliseconds.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Units of size from the largest, in bytes.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Number and unit of a quantity above zero, in the smallest unit.
fn quantity(value: &Value, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let expected = || {
        let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
        format!("expected a whole number and one of the units {}, as in \"{example}\"", names.join(", "))
    };
    let text = value.text().map_err(|_| expected())?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = (&text[..digits], text[digits..].trim_start());
    let &(_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or_else(expected)?;
    if number.is_empty() {
        return Err(expected());
    }
    let number: u64 = number.parse().map_err(|_| format!("{text} is too much"))?;
    match number.checked_mul(factor) {
        Some(0) => Err("must be more than zero".to_owned()),
        Some(quantity) => Ok(quantity),
        None => Err(format!("{text} is too much")),
    }
}

/// In the largest unit that leaves a whole number.
fn show_quantity(quantity: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| quantity.is_multiple_of(*factor);
    let (unit, factor) = units.iter().find(fits).copied().unwrap_or(units[units.len() - 1]);
    format!("{}{unit}", quantity / factor)
}

/// A time that is kept in milliseconds.
pub(super) struct Millis;

impl<T: TryFrom<u64> + Copy> Kind<T> for Millis
where
    u64: TryFrom<T>,
{
    fn show(value: &T) -> String {
        show_quantity(u64::try_from(*value).unwrap_or(u64::MAX), &TIMES)
    }

    fn read(value: &Value) -> Result<T, String> {
        let ms = quantity(value, &TIMES, "30s")?;
        T::try_from(ms).map_err(|_| format!("{} is too long", show_quantity(ms, &TIMES)))
    }
}

/// A time that is kept in seconds.
pub(super) struct Seconds;

impl Kind<u32> for Seconds {
    fn show(value: &u32) -> String {
        show_quantity(u64::from(*value) * 1_000, &TIMES)
    }

    fn read(value: &Value) -> Result<u32, String> {
        let ms = quantity(value, &TIMES, "30s")?;
        if !ms.is_multiple_of(1_000) {
            return Err("must be whole seconds".to_owned());
        }
        u32::try_from(ms / 1_000).map_err(|_| format!("{} is too long", show_quantity(ms, &TIMES)))
    }
}

/// A size in bytes.
pub(super) struct Bytes;

impl Kind<u64> for Bytes {
    fn show(value: &u64) -> String {
        show_quantity(*value, &SIZES)
    }

    fn read(value: &Value) -> Result<u64, String> {
        quantity(value, &SIZES, "64MiB")
    }
}

/// A number of things, at least one.
pub(super) struct Count;

impl<T: TryFrom<i128> + Display> Kind<T> for Count {
    fn show(value: &T) -> String {
        value.to_string()
    }

    fn read(value: &Value) -> Result<T, String> {
        let number = match value {
            Value::Whole(number) => *number,
            Value::Text(text) => text.parse().map_err(|_| "expected a whole number".to_owned())?,
            _ => return Err("expected a whole number".to_owned()),
        };
        match number {
            ..=0 => Err("must be more than zero".to_owned()),
            _ => T::try_from(number).map_err(|_| format!("{number} is too much")),
        }
    }
}

/// True or false.
pub(super) struct Flag;

impl Kind<bool> for Flag {
    fn show(value: &bool) -> String {
        value.to_string()
    }

    fn read(value: &Value) -> Result<bool, String> {
        match value {
            Value::Flag(flag) => Ok(*flag),
            Value::Text(text) if text == "true" => Ok(true),
            Value::Text(text) if text == "false" => Ok(false),
            _ => Err("expected true or false".to_owned()),
        }
    }
}

/// A file or directory, which need not be there.
pub(super) struct Place;

impl Kind<PathBuf> for Place {
    fn show(value: &PathBuf) -> String {
        value.display().to_string()
    }

    fn read(value: &Value) -> Result<PathBuf, String> {
        let path = PathBuf::from(value.text()?);
        if path.is_absolute() { Ok(path) } else { Err("expected an absolute path".to_owned()) }
    }
}

/// A file that holds a secret: its path, or the name of a credential.
pub(super) struct Secret;

impl Kind<PathBuf> for Secret {
    fn show(value: &PathBuf) -> String {
        value.display().to_string()
    }

    fn read(value: &Value) -> Result<PathBuf, String> {
        let path = PathBuf::from(value.text()?);
        let plain = path.file_name().is_some_and(|name| name == path.as_os_str());
        if plain || path.is_absolute() {
            Ok(path)
        } else {
            Err("expected an absolute path, or the name of a credential".to_owned())
        }
    }
}

/// A public key of a cache.
pub(super) struct Trusted;

impl Kind<PublicKey> for Trusted {
    fn show(value: &PublicKey) -> String {
        value.to_string()
    }

    fn read(value: &Value) -> Result<PublicKey, String> {
        let text = value.text()?;
        text.parse().map_err(|error| format!("{text:?}: {error}, expected NAME:BASE64"))
    }
}

/// Where objects are kept: a directory, or S3.
pub(super) struct ObjectPlace;

impl Kind<fleet_store::Place> for ObjectPlace {
    fn show(value: &fleet_store::Place) -> String {
        value.to_string()
    }

    fn read(value: &Value) -> Result<fleet_store::Place, String> {
        value.text()?.parse().map_err(|error: fleet_store::PlaceError| error.to_string())
    }
}

/// Something that may be absent: empty text.
pub(super) struct Maybe<K>(std::marker::PhantomData<K>);

impl<T, K: Kind<T>> Kind<Option<T>> for Maybe<K> {
    fn show(value: &Option<T>) -> String {
        value.as_ref().map_or_else(String::new, K::show)
    }

    fn read(value: &Value) -> Result<Option<T>, String> {
        if *value == Value::Text(String::new()) { Ok(None) } else { K::read(value).map(Some) }
    }
}

/// Several of a kind; separated by commas where there are no lists.
pub(super) struct Several<K>(std::marker::PhantomData<K>);

impl<T, K: Kind<T>> Kind<Vec<T>> for Several<K> {
    fn show(value: &Vec<T>) -> String {
        value.iter().map(K::show).collect::<Vec<_>>().join(",")
    }

    fn read(value: &Value) -> Result<Vec<T>, String> {
        let read = |item: &str| K::read(&Value::Text(item.to_owned()));
        match value {
            Value::List(items) => items.iter().map(|item| read(item)).collect(),
            Value::Text(text) => {
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(read).collect()
            }
            _ => Err("expected a list of texts".to_owned()),
        }
    }
}

/// Where to listen: an IP address and a port.
pub(super) struct Address;

impl Kind<SocketAddr> for Address {
    fn show(value: &SocketAddr) -> String {
        value.to_string()
    }

    fn read(value: &Value) -> Result<SocketAddr, String> {
        let text = value.text()?;
        text.parse().map_err(|_| "expected an IP address and a port, as in \"[::]:7143\"".to_owned())
    }
}

/// A DNS name or an IP address.
pub(super) struct HostName;

impl Kind<String> for HostName {
    fn show(value: &String) -> String {
        value.clone()
    }

    fn read(value: &Value) -> Result<String, String> {
        let text = value.text()?;
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:*".contains(&byte);
        if (1..=253).contains(&text.len()) && text.bytes().all(letter) {
            Ok(text.to_owned())
        } else {
            Err(format!("{text:?} is neither a DNS name nor an IP address"))
        }
    }
}

/// Which journal.
pub(super) struct JournalKind;

impl Kind<JournalChoice> for JournalKind {
    fn show(value: &JournalChoice) -> String {
        match value {
            JournalChoice::Memory => "memory".to_owned(),
            JournalChoice::Sqlite => "sqlite".to_owned(),
            JournalChoice::Postgres(url) => without_password(url),
        }
    }

    fn read(value: &Value) -> Result<JournalChoice, String> {
        match value.text()? {
            "sqlite" => Ok(JournalChoice::Sqlite),
            url if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Ok(JournalChoice::Postgres(url.to_owned()))
            }
            _ => Err("expected \"sqlite\" or \"postgres://USER@HOST/DATABASE\"".to_owned()),
        }
    }
}

/// Whether a URL holds a password.
pub(super) fn has_password(url: &str) -> bool {
    without_password(url) != url
}

fn without_password(url: &str) -> String {
    let (url, query) = url.split_once('?').map_or((url, None), |(url, query)| (url, Some(query)));
    let mut shown = match url.split_once("://").map(|(scheme, rest)| (scheme, rest.rsplit_once('@'))) {
        Some((scheme, Some((user, rest)))) if user.contains(':') => {
            let name = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{name}:***@{rest}")
        }
        _ => url.to_owned(),
    };
    if let Some(query) = query {
        let parts = query.split('&').map(|part| match part.split_once('=') {
            Some(("password", _)) => "password=***",
            _ => part,
        });
        shown = format!("{shown}?{}", parts.collect::<Vec<_>>().join("&"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn quantities_read_as_they_are_shown() {
        for (written, ms) in [("1ms", 1), ("90s", 90_000), ("2m", 120_000), ("3 h", 10_800_000)] {
            let read: u64 = Millis::read(&text(written)).expect(written);
            assert_eq!(read, ms);
            assert_eq!(<Millis as Kind<u64>>::read(&text(&Millis::show(&read))), Ok(ms));
        }
        assert_eq!(Bytes::show(&(64 << 20)), "64MiB");
        assert_eq!(Bytes::read(&text("64MiB")), Ok(64 << 20));
        assert_eq!(Seconds::show(&36_000), "10h");
    }

    #[test]
    fn quantities_without_a_sense_are_refused() {
        for written in ["", "s", "10", "-1s", "1.5h", "10 parsecs", "64MiB", "1e3s", "９s"] {
            let refused = <Millis as Kind<u64>>::read(&text(written)).expect_err(written);
            assert!(refused.contains("expected a whole number and one of the units"), "{written}: {refused}");
        }
        assert!(<Millis as Kind<u64>>::read(&Value::Whole(10)).is_err());
        assert_eq!(<Millis as Kind<u64>>::read(&text("0s")), Err("must be more than zero".to_owned()));
        assert!(<Millis as Kind<u64>>::read(&text("99999999999999999999d")).is_err());
        assert!(<Millis as Kind<u64>>::read(&text("18446744073709551615d")).is_err());
        assert!(<Millis as Kind<u32>>::read(&text("100d")).is_err());
        assert!(Seconds::read(&text("1500ms")).is_err());
        assert!(Seconds::read(&text("60000d")).is_err());
    }

    #[test]
    fn counts_are_above_zero_and_fit() {
        assert_eq!(<Count as Kind<u32>>::read(&Value::Whole(7)), Ok(7));
        assert_eq!(<Count as Kind<u32>>::read(&text("7")), Ok(7));
        for bad in [Value::Whole(0), Value::Whole(-1), Value::Whole(1 << 40), text("many"), Value::Flag(true)]
        {
            assert!(<Count as Kind<u32>>::read(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lists_are_written_in_either_way() {
        let names = vec!["a.example".to_owned(), "10.0.0.1".to_owned()];
        assert_eq!(Several::<HostName>::read(&Value::List(names.clone())), Ok(names.clone()));
        assert_eq!(Several::<HostName>::read(&text("a.example, 10.0.0.1")), Ok(names));
        assert!(Several::<HostName>::read(&text("a b")).is_err());
    }

    #[test]
    fn passwords_are_not_shown() {
        for url in ["postgres://u:secret@h/db", "postgres://u@h/db?password=secret&sslmode=require"] {
            let journal = JournalKind::read(&text(url)).expect("a URL");
            assert!(!JournalKind::show(&journal).contains("secret"), "{}", JournalKind::show(&journal));
            assert!(has_password(url));
        }
        assert!(!has_password("postgres://u@h/db?sslmode=require"));
    }
}

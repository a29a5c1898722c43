//! Durations and sizes as people write them. Pure.

use std::time::Duration;

/// Longer than this is a slip of the finger.
const MAX_DAYS: u64 = 3650;

/// A whole number of units, as in `90s`, `10m`, `2h`, `7d`; several may stand together, as in `1h30m`. Plain `0` is nothing.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let refused = || format!("`{text}` is not a time: write a number with a unit, as in 90s, 10m, 2h or 7d");
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, unit, after) = leading(rest).ok_or_else(refused)?;
        let seconds = match unit {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(refused()),
        };
        total = number.checked_mul(seconds).and_then(|more| total.checked_add(more)).ok_or_else(refused)?;
        rest = after;
    }
    if text.is_empty() {
        return Err(refused());
    }
    if total > MAX_DAYS * 86_400 {
        return Err(format!("`{text}` is more than ten years"));
    }
    Ok(Duration::from_secs(total))
}

/// The same in seconds; nothing cannot be asked for, as 0 means the coordinator's own.
pub(super) fn parse_seconds(text: &str) -> Result<u32, String> {
    let seconds = parse_duration(text)?.as_secs();
    u32::try_from(seconds)
        .ok()
        .filter(|&seconds| seconds > 0)
        .ok_or_else(|| format!("`{text}` leaves no time at all"))
}

/// Bytes: a whole number with a unit, as in `64MiB`, `20GiB` or `500MB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let refused =
        || format!("`{text}` is not a size: write a number with a unit, as in 512KiB, 64MiB or 20GiB");
    let (number, unit, after) = leading(text).ok_or_else(refused)?;
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(refused()),
    };
    if !after.is_empty() {
        return Err(refused());
    }
    let bytes = number.checked_mul(factor).ok_or_else(refused)?;
    if bytes == 0 { Err(format!("`{text}` leaves no room at all")) } else { Ok(bytes) }
}

/// The number and the unit that a text begins with, and the rest.
fn leading(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at(digits);
    let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(letters);
    Some((number.parse().ok()?, unit, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let seconds = |text| parse_duration(text).map(|time| time.as_secs());
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("10m"), Ok(600));
        assert_eq!(seconds("1h30m"), Ok(5400));
        assert_eq!(seconds("7d"), Ok(604_800));
        assert_eq!(seconds("0"), Ok(0));
        for refused in
            ["", "10", "m", "-5m", "5 m", "1.5h", "10y", "99999999999999999999s", "18446744073709551615d"]
        {
            let error = seconds(refused).expect_err(refused);
            assert_eq!(
                error,
                format!("`{refused}` is not a time: write a number with a unit, as in 90s, 10m, 2h or 7d")
            );
        }
        assert_eq!(seconds("9999d"), Err("`9999d` is more than ten years".to_owned()));
        assert_eq!(parse_seconds("0s"), Err("`0s` leaves no time at all".to_owned()));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("20G"), Ok(20 << 30));
        assert_eq!(parse_size("500MB"), Ok(500_000_000));
        for refused in ["", "64", "MiB", "-1MiB", "1MiB1", "64 MiB", "64mb", "99999999999TiB"] {
            let error = parse_size(refused).expect_err(refused);
            assert!(error.contains("as in 512KiB, 64MiB or 20GiB"), "{error}");
        }
        assert_eq!(parse_size("0MiB"), Err("`0MiB` leaves no room at all".to_owned()));
    }
}

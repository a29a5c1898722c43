//! Numbers for people: counts with separators, bytes, durations, and nouns in the right number.

/// `1,204`
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// `1 host`, `3 hosts`
pub(crate) fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number as u64))
}

/// `412.0 MiB`
pub(crate) fn bytes(size: u64) -> String {
    let (scaled, unit) = scale(size);
    if unit == "B" { format!("{size} B") } else { format!("{scaled:.1} {unit}") }
}

/// `+12.3 MiB`, `−512 B`, `±0`
pub(crate) fn byte_change(size: i64) -> String {
    match size {
        0 => "±0".to_owned(),
        1.. => format!("+{}", bytes(size.unsigned_abs())),
        _ => format!("−{}", bytes(size.unsigned_abs())),
    }
}

/// `42 s`, `3 min 12 s`, `1 h 2 min`
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 10.0 {
        return format!("{:.1} s", if seconds.is_finite() { seconds.max(0.0) } else { 0.0 });
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "finite, positive; saturates"
    )]
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A size in the greatest unit it has at least one of.
pub(crate) fn scale(size: u64) -> (f64, &'static str) {
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal place")]
    let mut scaled = size as f64;
    let mut unit = "B";
    for greater in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = greater;
    }
    (scaled, unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([count(0), count(999), count(1204), count(1_234_567)], ["0", "999", "1,204", "1,234,567"]);
        assert_eq!([counted(1, "host"), counted(23, "host")], ["1 host", "23 hosts"]);
        assert_eq!([bytes(512), bytes(1536), bytes(u64::MAX)], ["512 B", "1.5 KiB", "16.0 EiB"]);
        assert_eq!([byte_change(-2048), byte_change(0), byte_change(1)], ["−2.0 KiB", "±0", "+1 B"]);
        assert_eq!(byte_change(i64::MIN), "−8.0 EiB");
        assert_eq!(
            [duration(0.04), duration(59.6), duration(192.0), duration(3725.0)],
            ["0.0 s", "1 min 0 s", "3 min 12 s", "1 h 2 min"]
        );
        assert_eq!([duration(f64::NAN), duration(f64::INFINITY), duration(-1.0)], ["0.0 s"; 3]);
    }
}

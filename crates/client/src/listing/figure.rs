//! Times and sizes in a few characters. Pure but for the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::progress::duration;

const DAY_MS: u64 = 86_400_000;

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `12s`, `3m05s`, `2h03m`, `5d`.
fn span(ms: u64) -> String {
    if ms < 2 * DAY_MS { duration(ms) } else { format!("{}d", ms / DAY_MS) }
}

/// How long ago a moment was; nothing for one that never was.
pub fn age(then_ms: u64, now_ms: u64) -> String {
    if then_ms == 0 { String::new() } else { format!("{} ago", span(now_ms.saturating_sub(then_ms))) }
}

/// How far away a moment is, in seconds since 1970.
pub fn until(then_s: u64, now_ms: u64) -> String {
    match then_s.saturating_mul(1000) {
        0 => String::new(),
        end_ms if end_ms <= now_ms => "expired".to_owned(),
        end_ms => format!("in {}", span(end_ms - now_ms)),
    }
}

/// `812 B`, `3.4 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes / 1024 * 10 + bytes % 1024 * 10 / 1024;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for larger in units {
        if tenths < 10_240 {
            break;
        }
        (tenths, unit) = (tenths / 1024, larger);
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(age(1_000, 61_000), "1m00s ago");
        assert_eq!(age(0, 61_000), "");
        assert_eq!(age(1, 1 + 3 * DAY_MS), "3d ago");
        assert_eq!(age(61_000, 1_000), "0s ago", "clocks differ");
        assert_eq!(until(10, 4_000), "in 6s");
        assert_eq!(until(10, 10_000), "expired");
        assert_eq!(until(u64::MAX, 0), "in 213503982334d");
        assert_eq!(bytes(812), "812 B");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
    }
}

//! What a request asks the cache for: its path, and the part of it that is wanted. Pure; nothing is decoded that Nix
//! does not write, so that no path has two spellings.

use fleet_nix::{StorePath, base32};

/// Bytes of the longest path of a page: a store path's name has 211.
const MAX_PATH: usize = 512;
/// Characters of a store path's hash.
const HASH_PART: usize = 32;
/// Characters of a NAR hash in base 32.
const NAR_HASH: usize = 52;

/// A page of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// What kind of cache this is.
    CacheInfo,
    /// What is known of the path with this hash part.
    NarInfo(String),
    /// The archive of a path: hash part, and NAR hash in base 32.
    Nar(String, String),
    /// What the builder of a derivation said.
    Log(StorePath),
}

/// Why a path names no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPage {
    /// Nobody who means well writes it.
    Bad,
    /// It could be one.
    Absent,
}

impl Asked {
    /// The page of a path, which begins with a slash.
    pub(super) fn of(path: &str) -> Result<Self, NoPage> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=/".contains(&byte);
        let below = path.strip_prefix('/').filter(|path| path.len() <= MAX_PATH).ok_or(NoPage::Bad)?;
        let parts_are_plain =
            below.is_empty() || below.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !below.bytes().all(plain) || !parts_are_plain {
            return Err(NoPage::Bad);
        }
        let page = match below.split_once('/') {
            None if below == "nix-cache-info" => Some(Self::CacheInfo),
            None => below.strip_suffix(".narinfo").and_then(hash_part).map(Self::NarInfo),
            Some(("nar", file)) => file.strip_suffix(".nar.zst").and_then(nar),
            Some(("log", drv)) => drv.parse().ok().filter(StorePath::is_derivation).map(Self::Log),
            Some(_) => None,
        };
        page.ok_or(NoPage::Absent)
    }

    /// Where the archive of a path is, relative to the cache.
    pub(super) fn nar_url(hash_part: &str, nar_hash: &str) -> String {
        format!("nar/{hash_part}-{nar_hash}.nar.zst")
    }
}

fn hash_part(text: &str) -> Option<String> {
    is_base32(text, HASH_PART).then(|| text.to_owned())
}

fn nar(name: &str) -> Option<Asked> {
    let (hash_part, nar_hash) = name.split_once('-')?;
    let known = is_base32(hash_part, HASH_PART) && is_base32(nar_hash, NAR_HASH);
    known.then(|| Asked::Nar(hash_part.to_owned(), nar_hash.to_owned()))
}

fn is_base32(text: &str, length: usize) -> bool {
    text.len() == length && base32::decode(text).is_ok()
}

/// What part of something is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// From the first to the last byte, both included.
    Bytes(u64, u64),
    /// Nothing that is there.
    Outside,
}

impl Part {
    /// What a Range header wants of `length` bytes (RFC 9110, section 14.2): what it says badly, and several ranges at
    /// once, are all of it.
    pub(super) fn of(header: &str, length: u64) -> Self {
        let Some(range) = header.trim().strip_prefix("bytes=") else { return Self::Whole };
        let Some((first, last)) = range.split_once('-') else { return Self::Whole };
        let (first, last) = (first.trim(), last.trim());
        match (number(first), number(last)) {
            (None, Some(0)) if first.is_empty() => Self::Outside,
            (None, Some(_)) if first.is_empty() && length == 0 => Self::Outside,
            (None, Some(suffix)) if first.is_empty() => {
                Self::Bytes(length.saturating_sub(suffix), length - 1)
            }
            (Some(first), None) if last.is_empty() && first < length => Self::Bytes(first, length - 1),
            (Some(first), Some(last)) if first <= last && first < length => {
                Self::Bytes(first, last.min(length - 1))
            }
            (Some(_), None) if last.is_empty() => Self::Outside,
            (Some(first), Some(last)) if first <= last => Self::Outside,
            _ => Self::Whole,
        }
    }
}

/// Digits only; what is too much for us is the most there is.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "0c94i5ndjjcms1vyqkpwjvj41rxsnpgj";

    #[test]
    fn pages_are_named_as_nix_names_them() {
        assert_eq!(Asked::of("/nix-cache-info"), Ok(Asked::CacheInfo));
        assert_eq!(Asked::of(&format!("/{HASH}.narinfo")), Ok(Asked::NarInfo(HASH.to_owned())));
        let nar_hash = "1".repeat(NAR_HASH);
        let url = format!("/{}", Asked::nar_url(HASH, &nar_hash));
        assert_eq!(Asked::of(&url), Ok(Asked::Nar(HASH.to_owned(), nar_hash)));
        let drv = format!("{HASH}-hello-1.0.drv");
        assert_eq!(Asked::of(&format!("/log/{drv}")), Ok(Asked::Log(drv.parse().expect("a path"))));
    }

    #[test]
    fn what_nobody_writes_is_no_page() {
        let long = format!("/{}", "a".repeat(8 << 10));
        let bad = [
            "",
            "nix-cache-info",
            "//nix-cache-info",
            "/nar//x",
            "/./nix-cache-info",
            "/../nix-cache-info",
            "/nar/..",
            "/%2e%2e%2fetc",
            "/nix-cache-info%00",
            "/nix-cache-info\0",
            "/nix cache",
            "/ü",
            "/nix-cache-info/",
            &long,
        ];
        for path in bad {
            assert_eq!(Asked::of(path), Err(NoPage::Bad), "{path:.80}");
        }
        let absent = [
            "/".to_owned(),
            "/index.html".to_owned(),
            format!("/{}.narinfo", &HASH[1..]),
            format!("/{HASH}0.narinfo"),
            format!("/{}e.narinfo", &HASH[1..]),
            format!("/{}.narinfo", HASH.to_uppercase()),
            format!("/{HASH}.ls"),
            format!("/x/{HASH}.narinfo"),
            format!("/nar/{HASH}.nar.zst"),
            format!("/nar/{HASH}-{HASH}.nar.zst"),
            format!("/log/{HASH}-hello-1.0"),
            "/log/hello.drv".to_owned(),
            format!("/log/x/{HASH}-hello-1.0.drv"),
        ];
        for path in absent {
            assert_eq!(Asked::of(&path), Err(NoPage::Absent), "{path}");
        }
    }

    #[test]
    fn one_range_is_served_and_nonsense_is_all_of_it() {
        use Part::{Bytes, Outside, Whole};
        let cases = [
            ("bytes=0-0", Bytes(0, 0)),
            ("bytes=0-", Bytes(0, 9)),
            ("bytes=3-5", Bytes(3, 5)),
            ("bytes= 3 - 5 ", Bytes(3, 5)),
            ("bytes=9-9", Bytes(9, 9)),
            ("bytes=3-99999999999999999999999", Bytes(3, 9)),
            ("bytes=-3", Bytes(7, 9)),
            ("bytes=-99999999999999999999999", Bytes(0, 9)),
            ("bytes=10-", Outside),
            ("bytes=10-11", Outside),
            ("bytes=99999999999999999999999-", Outside),
            ("bytes=-0", Outside),
            ("bytes=5-3", Whole),
            ("bytes=0-1,3-4", Whole),
            ("bytes=0-1,", Whole),
            ("bytes=-", Whole),
            ("bytes=", Whole),
            ("bytes=a-b", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=--1", Whole),
            ("lines=0-1", Whole),
            ("", Whole),
        ];
        for (header, part) in cases {
            assert_eq!(Part::of(header, 10), part, "{header}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_within(header in "(bytes=)?[-0-9,a ]{0,40}", length in any::<u64>()) {
            if let Part::Bytes(first, last) = Part::of(&header, length) {
                prop_assert!(first <= last && last < length);
            }
        }

        #[test]
        fn no_path_makes_it_panic(path in "\\PC{0,100}", rest in "[-_.a-z0-9/%]{0,90}") {
            let _ = Asked::of(&path);
            let _ = Asked::of(&format!("/nar/{rest}.nar.zst"));
            let _ = Asked::of(&format!("/log/{rest}.drv"));
        }
    }
}

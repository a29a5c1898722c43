//! Where a store is: the text of a setting, read. Pure.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// Where objects are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this directory, which is created.
    Directory(PathBuf),
    /// In S3, or what speaks its language.
    S3 {
        /// The bucket, which must exist.
        bucket: String,
        /// What all keys begin with; may be empty.
        prefix: String,
    },
}

/// Why a text does not say where a store is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlaceError {
    /// Neither a path nor S3.
    #[error("expected an absolute path, or s3://BUCKET/PREFIX")]
    Unknown,
    /// Bucket names have 3 to 63 lowercase letters, digits, dots and hyphens.
    #[error("{0:?} cannot name a bucket")]
    Bucket(String),
    /// Prefixes have letters, digits and `-_.`, with single slashes between.
    #[error("{0:?} cannot be the prefix of keys")]
    Prefix(String),
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let Some(rest) = text.strip_prefix("s3://") else {
            return if text.starts_with('/') {
                Ok(Self::Directory(PathBuf::from(text)))
            } else {
                Err(PlaceError::Unknown)
            };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let of_bucket =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        let is_bucket = (3..=63).contains(&bucket.len())
            && bucket.bytes().all(of_bucket)
            && ends(bucket.bytes().next())
            && ends(bucket.bytes().next_back());
        if !is_bucket {
            return Err(PlaceError::Bucket(bucket.chars().take(80).collect()));
        }
        let of_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(of_part);
        if prefix.len() > 512 || !(prefix.is_empty() || prefix.split('/').all(is_part)) {
            return Err(PlaceError::Prefix(prefix.chars().take(80).collect()));
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_printed() {
        for (text, printed) in [
            ("/var/lib/objects", "/var/lib/objects"),
            ("s3://my-bucket", "s3://my-bucket"),
            ("s3://my-bucket/", "s3://my-bucket"),
            ("s3://my.bucket/fleet/one/", "s3://my.bucket/fleet/one"),
        ] {
            let place: Place = text.parse().expect(text);
            assert_eq!(place.to_string(), printed);
            assert_eq!(printed.parse(), Ok(place));
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in ["", "objects", "./objects", "http://x/y", "s3:/bucket", "S3://bucket"] {
            assert_eq!(text.parse::<Place>(), Err(PlaceError::Unknown), "{text}");
        }
        for text in
            ["s3://", "s3:///x", "s3://ab", "s3://Bucket", "s3://user@bucket/x", "s3://-ab", "s3://a_b"]
        {
            assert!(matches!(text.parse::<Place>(), Err(PlaceError::Bucket(_))), "{text}");
        }
        for text in ["s3://abc//x", "s3://abc/../x", "s3://abc/x?y", "s3://abc/x//", "s3://abc/a b"] {
            assert!(matches!(text.parse::<Place>(), Err(PlaceError::Prefix(_))), "{text}");
        }
    }
}

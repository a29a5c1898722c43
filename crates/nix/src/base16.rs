//! Hexadecimal as Nix writes it: lower case, two digits a byte.

use thiserror::Error;

/// Why a text is not hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Base16Error {
    /// Two digits make a byte.
    #[error("odd number of hexadecimal digits")]
    OddLength,
    /// The byte at this offset is no digit.
    #[error("invalid hexadecimal digit at offset {0}")]
    InvalidDigit(usize),
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Lower-case digits of `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// The bytes of `text`; digits of either case, as Nix reads them.
pub fn decode(text: &str) -> Result<Vec<u8>, Base16Error> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return Err(Base16Error::OddLength);
    }
    let value = |offset: usize| digit_value(digits[offset]).ok_or(Base16Error::InvalidDigit(offset));
    (0..digits.len()).step_by(2).map(|offset| Ok(value(offset)? << 4 | value(offset + 1)?)).collect()
}

fn digit_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn faults_are_named() {
        assert_eq!(decode("abc"), Err(Base16Error::OddLength));
        assert_eq!(decode("0g"), Err(Base16Error::InvalidDigit(1)));
        assert_eq!(decode("0A").expect("upper case is read"), [10]);
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)).expect("our own text"), bytes);
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = decode(&text);
        }
    }
}

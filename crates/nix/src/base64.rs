//! Base64 (RFC 4648, section 4, padded) as hashes, keys and signatures use it.
//!
//! Only the canonical form is read: one text for one value, so that a comparison of texts is one of values.

use thiserror::Error;

/// Why a text is not canonical base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Base64Error {
    /// Padded base64 comes in groups of four characters.
    #[error("length of base64 text is not a multiple of four")]
    BadLength,
    /// The byte at this offset is not in the alphabet.
    #[error("invalid base64 character at offset {0}")]
    InvalidCharacter(usize),
    /// Bits that carry nothing must be zero.
    #[error("unused bits of base64 text are not zero")]
    UnusedBits,
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Padded text of `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(encoded_len(bytes.len()));
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            if position <= group.len() {
                let index = (bits >> (18 - 6 * position)) & 63;
                text.push(char::from(ALPHABET[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// The bytes of a canonical padded text.
pub fn decode(text: &str) -> Result<Vec<u8>, Base64Error> {
    let characters = text.as_bytes();
    if !characters.len().is_multiple_of(4) {
        return Err(Base64Error::BadLength);
    }
    let data = match characters {
        [head @ .., b'=', b'='] | [head @ .., b'='] => head,
        all => all,
    };
    let mut bytes = Vec::with_capacity(characters.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for (offset, character) in data.iter().enumerate() {
        let value = character_value(*character).ok_or(Base64Error::InvalidCharacter(offset))?;
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held).expect("higher bits were taken before"));
            bits &= (1 << held) - 1;
        }
    }
    if bits != 0 {
        return Err(Base64Error::UnusedBits);
    }
    Ok(bytes)
}

/// Length of the text of `len` bytes.
pub const fn encoded_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}

fn character_value(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn vectors_of_the_standard() {
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(plain.as_bytes()), text);
            assert_eq!(decode(text).expect("standard vector"), plain.as_bytes());
        }
    }

    #[test]
    fn only_the_canonical_form_is_read() {
        assert_eq!(decode("Zg"), Err(Base64Error::BadLength));
        assert_eq!(decode("Zh=="), Err(Base64Error::UnusedBits));
        assert_eq!(decode("Z==="), Err(Base64Error::InvalidCharacter(1)));
        assert_eq!(decode("===="), Err(Base64Error::InvalidCharacter(0)));
        assert_eq!(decode("Z g="), Err(Base64Error::InvalidCharacter(1)));
        assert_eq!(decode("Zg==Zg=="), Err(Base64Error::InvalidCharacter(2)));
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)).expect("our own text"), bytes);
        }

        #[test]
        fn encode_undoes_decode(text in "[A-Za-z0-9+/=]{0,24}") {
            if let Ok(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = decode(&text);
        }
    }
}

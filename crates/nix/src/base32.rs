//! Nix's base 32: no e, o, u, t, and the digits run from the last bit to the first.
//!
//! Only the canonical form is read: bits of the first character beyond the value must be zero.

use thiserror::Error;

/// The 32 characters in order of value.
pub const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Why a text is not base 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Base32Error {
    /// No whole number of bytes has a text of this length.
    #[error("no value has a base32 text of {0} characters")]
    BadLength(usize),
    /// The byte at this offset is not in the alphabet.
    #[error("invalid base32 character at offset {0}")]
    InvalidCharacter(usize),
    /// Bits that carry nothing must be zero.
    #[error("unused bits of base32 text are not zero")]
    UnusedBits,
}

/// The text of `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(encoded_len(bytes.len()));
    for position in (0..encoded_len(bytes.len())).rev() {
        let (index, shift) = (position * 5 / 8, position * 5 % 8);
        let low = u16::from(bytes[index]);
        let high = u16::from(bytes.get(index + 1).copied().unwrap_or(0));
        let value = ((high << 8 | low) >> shift) & 31;
        text.push(char::from(ALPHABET[usize::from(value)]));
    }
    text
}

/// The bytes of `text`.
pub fn decode(text: &str) -> Result<Vec<u8>, Base32Error> {
    let characters = text.as_bytes();
    let len = characters.len() * 5 / 8;
    if encoded_len(len) != characters.len() {
        return Err(Base32Error::BadLength(characters.len()));
    }
    let mut bytes = vec![0u8; len];
    for (position, (offset, character)) in characters.iter().enumerate().rev().enumerate() {
        let value = character_value(*character).ok_or(Base32Error::InvalidCharacter(offset))?;
        let (index, shift) = (position * 5 / 8, position * 5 % 8);
        let [low, high] = (u16::from(value) << shift).to_le_bytes();
        bytes[index] |= low;
        match bytes.get_mut(index + 1) {
            Some(next) => *next |= high,
            None if high != 0 => return Err(Base32Error::UnusedBits),
            None => {}
        }
    }
    Ok(bytes)
}

/// Length of the text of `len` bytes.
pub const fn encoded_len(len: usize) -> usize {
    (len * 8).div_ceil(5)
}

/// Whether `byte` is one of the 32 characters.
pub fn is_character(byte: u8) -> bool {
    character_value(byte).is_some()
}

fn character_value(character: u8) -> Option<u8> {
    const NONE: u8 = 255;
    const VALUES: [u8; 256] = {
        let mut values = [NONE; 256];
        let mut value = 0u8;
        while value < 32 {
            values[ALPHABET[value as usize] as usize] = value;
            value += 1;
        }
        values
    };
    match VALUES[usize::from(character)] {
        NONE => None,
        value => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn faults_are_named() {
        assert_eq!(decode("0"), Err(Base32Error::BadLength(1)));
        assert_eq!(decode("0e"), Err(Base32Error::InvalidCharacter(1)));
        assert_eq!(decode("80"), Err(Base32Error::UnusedBits));
        assert_eq!(decode(""), Ok(Vec::new()));
        assert_eq!(encode(&[]), "");
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)).expect("our own text"), bytes);
        }

        #[test]
        fn encode_undoes_decode(text in "[0-9a-z]{0,60}") {
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

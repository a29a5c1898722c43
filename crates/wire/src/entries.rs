//! How many entries the lists of a message hold, counted before it is decoded: two bytes on the wire can become a
//! hundred in memory. Knows the messages by the compiled description of proto/; decides nothing but the bound.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Entries of all lists of one message together.
pub const MAX_ENTRIES: usize = 1 << 18;

static SHAPES: LazyLock<HashMap<String, Shape>> = LazyLock::new(|| {
    let described = FileDescriptorSet::decode(crate::DESCRIPTORS).expect("the build made them");
    let mut shapes = HashMap::new();
    for file in &described.file {
        file.message_type.iter().for_each(|message| describe(file.package(), message, &mut shapes));
    }
    shapes
});

/// What of a message matters here, by field number.
type Shape = HashMap<u32, Field>;

#[derive(Debug)]
struct Field {
    repeated: bool,
    /// The full name of the message that it holds.
    message: Option<String>,
    /// Several of them may come in one piece.
    packable: bool,
}

/// The lists of a message are too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lists of a message have at most {MAX_ENTRIES} entries together")]
pub struct TooManyEntries;

fn describe(scope: &str, message: &DescriptorProto, shapes: &mut HashMap<String, Shape>) {
    let name = format!("{scope}.{}", message.name());
    message.nested_type.iter().for_each(|nested| describe(&name, nested, shapes));
    let fields = message.field.iter().filter_map(|field| {
        let number = u32::try_from(field.number()).ok()?;
        Some((number, shape_of(field)))
    });
    shapes.insert(name, fields.collect());
}

fn shape_of(field: &FieldDescriptorProto) -> Field {
    let is_message = field.r#type() == Type::Message;
    Field {
        repeated: field.label() == Label::Repeated,
        message: is_message.then(|| field.type_name().trim_start_matches('.').to_owned()),
        packable: !matches!(field.r#type(), Type::Message | Type::String | Type::Bytes),
    }
}

/// Refuses an encoded message of this full name whose lists are too long together. What is no message passes: the
/// decoder says what is wrong with it.
pub(crate) fn check(name: &str, encoded: &[u8]) -> Result<(), TooManyEntries> {
    let mut left = MAX_ENTRIES;
    count(name, encoded, &mut left)
}

/// As deep as messages of the protocol contain one another, and none contains itself.
fn count(name: &str, mut encoded: &[u8], left: &mut usize) -> Result<(), TooManyEntries> {
    let Some(shape) = SHAPES.get(name) else { return Ok(()) };
    while let Some((number, payload)) = next(&mut encoded) {
        let Some(field) = shape.get(&number) else { continue };
        if field.repeated {
            let entries = match payload {
                // Each ends with a byte below 128. An element of fixed size would be counted too often, not too rarely.
                Some(packed) if field.packable => packed.iter().filter(|byte| **byte < 0x80).count(),
                _ => 1,
            };
            *left = left.checked_sub(entries).ok_or(TooManyEntries)?;
        }
        if let (Some(message), Some(payload)) = (&field.message, payload) {
            count(message, payload, left)?;
        }
    }
    Ok(())
}

/// The next field, with what it holds if that has a length.
fn next<'m>(encoded: &mut &'m [u8]) -> Option<(u32, Option<&'m [u8]>)> {
    let (number, wire_type) = decode_key(encoded).ok()?;
    let length = match wire_type {
        WireType::Varint => {
            decode_varint(encoded).ok()?;
            return Some((number, None));
        }
        WireType::StartGroup | WireType::EndGroup => return Some((number, None)),
        WireType::ThirtyTwoBit => 4,
        WireType::SixtyFourBit => 8,
        WireType::LengthDelimited => usize::try_from(decode_varint(encoded).ok()?).ok()?,
    };
    let (payload, rest) = encoded.split_at_checked(length)?;
    *encoded = rest;
    Some((number, (wire_type == WireType::LengthDelimited).then_some(payload)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn entries_are_counted_at_every_depth_and_only_those() {
        let derivation = |references: usize| v1::Derivation {
            references: vec![String::new(); references],
            aterm: vec![0x12; 1 << 20].into(),
            ..v1::Derivation::default()
        };
        let message = |derivations: Vec<v1::Derivation>| {
            let seen = v1::DerivationsSeen { derivations };
            let message = Some(v1::worker_message::Message::DerivationsSeen(seen));
            v1::WorkerMessage { sequence: u64::MAX, message }.encode_to_vec()
        };
        let name = "fleet.v1.WorkerMessage";
        let half = MAX_ENTRIES / 2 - 1;
        assert_eq!(check(name, &message(vec![derivation(half), derivation(half)])), Ok(()));
        let more = message(vec![derivation(half), derivation(half + 1)]);
        assert_eq!(check(name, &more), Err(TooManyEntries));
    }

    #[test]
    fn packed_entries_are_entries() {
        let kinds = |length| v1::Selection { kinds: vec![1; length], ..v1::Selection::default() };
        let checked = |length| check("fleet.v1.Selection", &kinds(length).encode_to_vec());
        assert_eq!(checked(MAX_ENTRIES), Ok(()));
        assert_eq!(checked(MAX_ENTRIES + 1), Err(TooManyEntries));
    }

    #[test]
    fn what_is_no_message_is_left_to_the_decoder() {
        for bytes in [&b"\x0a\xff\xff\xff\xff\x0f"[..], b"\x07", b"\x0a\x05ab", &[0xff; 20]] {
            assert_eq!(check("fleet.v1.SubmitRequest", bytes), Ok(()));
        }
    }
}

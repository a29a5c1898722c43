//! The frame of everything that programs read: one object on one line, with the number of its schema.

use serde::Serialize;

/// Within one number, fields are added and never changed.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Document<T> {
    schema: u32,
    #[serde(flatten)]
    body: T,
}

/// The text, with its newline.
pub fn document(body: impl Serialize) -> String {
    let text = serde_json::to_string(&Document { schema: SCHEMA, body });
    text.expect("texts, numbers and maps keyed by texts are always JSON") + "\n"
}

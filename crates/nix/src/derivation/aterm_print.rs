//! The one way Nix writes a derivation down.

use std::collections::{BTreeMap, BTreeSet};

use super::definition::Environment;
use super::{BasicDerivation, Derivation, DerivationOutput};
use crate::content_address::ContentAddressMethod;
use crate::hash::HashAlgorithm;
use crate::store_path::{OutputName, StoreDir, StorePath};

/// What a derivation's text is made of; input derivations are named by their path, or by a hash when the text
/// itself is to be hashed.
pub(super) struct Parts<'a> {
    pub(super) outputs: &'a BTreeMap<OutputName, DerivationOutput>,
    pub(super) inputs: BTreeMap<String, &'a BTreeSet<OutputName>>,
    pub(super) input_srcs: &'a BTreeSet<StorePath>,
    pub(super) system: &'a str,
    pub(super) builder: &'a [u8],
    pub(super) args: &'a [Vec<u8>],
    pub(super) env: &'a Environment,
    /// Leave output paths, and variables named after outputs, empty.
    pub(super) masked: bool,
}

impl Derivation {
    /// The bytes of the derivation's file.
    pub fn to_aterm(&self, store: &StoreDir) -> Vec<u8> {
        let inputs = self.input_drvs.iter().map(|(drv, outputs)| (store.print(drv), outputs)).collect();
        let parts = Parts {
            outputs: &self.outputs,
            inputs,
            input_srcs: &self.input_srcs,
            system: &self.system,
            builder: &self.builder,
            args: &self.args,
            env: &self.env,
            masked: false,
        };
        print(store, &parts)
    }
}

impl BasicDerivation {
    /// The bytes of this derivation as one without input derivations; [`BasicDerivation::parse`] reads them.
    pub fn to_aterm(&self, store: &StoreDir) -> Vec<u8> {
        print(store, &self.parts(false))
    }

    pub(super) fn parts(&self, masked: bool) -> Parts<'_> {
        Parts {
            outputs: &self.outputs,
            inputs: BTreeMap::new(),
            input_srcs: &self.input_srcs,
            system: &self.system,
            builder: &self.builder,
            args: &self.args,
            env: &self.env,
            masked,
        }
    }
}

pub(super) fn print(store: &StoreDir, parts: &Parts<'_>) -> Vec<u8> {
    let mut text = Vec::with_capacity(4096);
    text.extend_from_slice(b"Derive(");
    list(&mut text, parts.outputs, |text, (name, output)| {
        print_output(text, store, name, output, parts.masked);
    });
    text.push(b',');
    list(&mut text, &parts.inputs, |text, (input, outputs)| {
        text.push(b'(');
        plain(text, input);
        text.push(b',');
        list(text, *outputs, |text, name| plain(text, name.as_str()));
        text.push(b')');
    });
    text.push(b',');
    list(&mut text, parts.input_srcs, |text, path| {
        plain(text, &store.print(path));
    });
    text.push(b',');
    plain(&mut text, parts.system);
    text.push(b',');
    escaped(&mut text, parts.builder);
    text.push(b',');
    list(&mut text, parts.args, |text, arg| escaped(text, arg));
    text.push(b',');
    list(&mut text, parts.env, |text, (name, value)| {
        let is_output = || std::str::from_utf8(name).is_ok_and(|name| parts.outputs.contains_key(name));
        text.push(b'(');
        escaped(text, name);
        text.push(b',');
        escaped(text, if parts.masked && is_output() { b"" } else { value });
        text.push(b')');
    });
    text.push(b')');
    text
}

fn print_output(
    text: &mut Vec<u8>,
    store: &StoreDir,
    name: &OutputName,
    output: &DerivationOutput,
    masked: bool,
) {
    let method_and_algorithm =
        |method: ContentAddressMethod, algorithm: HashAlgorithm| format!("{}{algorithm}", method.prefix());
    let path = output.path().filter(|_| !masked).map(|path| store.print(path)).unwrap_or_default();
    let (algorithm, hash) = match output {
        DerivationOutput::InputAddressed(_) | DerivationOutput::Deferred => (String::new(), String::new()),
        DerivationOutput::Fixed { ca, .. } => (ca.method_and_algorithm(), ca.hash.to_base16()),
        DerivationOutput::Floating { method, algo } => (method_and_algorithm(*method, *algo), String::new()),
        DerivationOutput::Impure { method, algo } => (method_and_algorithm(*method, *algo), "impure".into()),
    };
    text.push(b'(');
    plain(text, name.as_str());
    for field in [path, algorithm, hash] {
        text.push(b',');
        plain(text, &field);
    }
    text.push(b')');
}

fn list<T>(text: &mut Vec<u8>, items: impl IntoIterator<Item = T>, print: impl Fn(&mut Vec<u8>, T)) {
    text.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        print(text, item);
    }
    text.push(b']');
}

/// For what cannot hold a character to escape.
fn plain(text: &mut Vec<u8>, string: &str) {
    text.push(b'"');
    text.extend_from_slice(string.as_bytes());
    text.push(b'"');
}

fn escaped(text: &mut Vec<u8>, string: &[u8]) {
    text.push(b'"');
    for byte in string {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', *byte]),
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\r' => text.extend_from_slice(b"\\r"),
            b'\t' => text.extend_from_slice(b"\\t"),
            byte => text.push(*byte),
        }
    }
    text.push(b'"');
}

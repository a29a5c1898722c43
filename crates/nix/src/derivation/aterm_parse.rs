//! Reads a derivation, and only in the one way Nix writes it: members sorted and unique, escapes canonical.
//!
//! So whatever is read prints as the same bytes, and a path computed from a value is that of the bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use super::{BasicDerivation, Derivation, DerivationError, DerivationKind, DerivationOutput, Fault};
use crate::addressing::{self, References};
use crate::content_address::{ContentAddress, ContentAddressMethod};
use crate::hash::{Hash, HashAlgorithm, HashError};
use crate::store_path::{OutputName, StoreDir, StorePath, check_name};

/// Bytes of the largest derivation that is read.
pub const MAX_DERIVATION_LEN: usize = 64 << 20;

impl Derivation {
    /// Reads the bytes of a derivation's file. `name` is that of its store path without `.drv`.
    ///
    /// Stated paths of fixed outputs are checked; those of input-addressed ones follow from the input
    /// derivations as well: see [`Derivation::check_output_paths`].
    pub fn parse(store: &StoreDir, name: &str, aterm: &[u8]) -> Result<Self, DerivationError> {
        if aterm.len() > MAX_DERIVATION_LEN {
            return Err(DerivationError::TooLarge(aterm.len()));
        }
        check_name(name)?;
        let mut cursor = Cursor { bytes: aterm, offset: 0, store };
        let result = cursor.version().and_then(|()| cursor.derivation(name).map_err(Stop::Fault));
        let derivation = result.map_err(|stop| match stop {
            Stop::Fault(fault) => DerivationError::Malformed { offset: cursor.offset, fault },
            Stop::Whole(error) => error,
        })?;
        DerivationKind::of(&derivation.outputs)?;
        derivation.structured_attrs()?;
        check_fixed_paths(store, &derivation)?;
        Ok(derivation)
    }
}

impl BasicDerivation {
    /// Reads what [`BasicDerivation::to_aterm`] wrote.
    pub fn parse(store: &StoreDir, name: &str, aterm: &[u8]) -> Result<Self, DerivationError> {
        let derivation = Derivation::parse(store, name, aterm)?;
        if !derivation.input_drvs.is_empty() {
            return Err(DerivationError::NotBasic);
        }
        Ok(Self {
            name: derivation.name,
            outputs: derivation.outputs,
            input_srcs: derivation.input_srcs,
            system: derivation.system,
            builder: derivation.builder,
            args: derivation.args,
            env: derivation.env,
        })
    }
}

/// A fault where the cursor stands, or one of the derivation as a whole.
enum Stop {
    Fault(Fault),
    Whole(DerivationError),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
    store: &'a StoreDir,
}

impl Cursor<'_> {
    /// Reads what stands before the parts: the name of the format, which tells a dynamic derivation.
    fn version(&mut self) -> Result<(), Stop> {
        if !self.bytes.starts_with(b"DrvWithVersion(") {
            return Ok(self.expect("Derive(")?);
        }
        self.expect("DrvWithVersion(")?;
        let version = self.text()?;
        Err(Stop::Whole(match version.as_str() {
            "xp-dyn-drv" => DerivationError::Dynamic,
            _ => DerivationError::UnknownVersion(version.chars().take(32).collect()),
        }))
    }

    fn derivation(&mut self, name: &str) -> Result<Derivation, Fault> {
        let outputs = self.map(Self::output)?;
        self.expect(",")?;
        let input_drvs = self.map(Self::input)?;
        self.expect(",")?;
        let input_srcs = self.set(Self::path)?;
        self.expect(",")?;
        let system = self.system()?;
        self.expect(",")?;
        let builder = self.string()?;
        self.expect(",")?;
        let mut args = Vec::new();
        self.list(|cursor| {
            args.push(cursor.string()?);
            Ok(())
        })?;
        self.expect(",")?;
        let env = self.map(|cursor| {
            let name = cursor.string()?;
            cursor.expect(",")?;
            Ok((name, cursor.string()?))
        })?;
        self.expect(")")?;
        if self.offset < self.bytes.len() {
            return Err(Fault::Trailing);
        }
        Ok(Derivation { name: name.to_owned(), outputs, input_drvs, input_srcs, system, builder, args, env })
    }

    fn output(&mut self) -> Result<(OutputName, DerivationOutput), Fault> {
        let name = self.parsed()?;
        self.expect(",")?;
        let path = self.text()?;
        self.expect(",")?;
        let method_and_algorithm = self.text()?;
        self.expect(",")?;
        let hash = self.text()?;
        Ok((name, self.output_form(&path, &method_and_algorithm, &hash)?))
    }

    fn output_form(
        &self,
        path: &str,
        method_and_algorithm: &str,
        hash: &str,
    ) -> Result<DerivationOutput, Fault> {
        match (path, method_and_algorithm, hash) {
            ("", "", "") => Ok(DerivationOutput::Deferred),
            (path, "", "") => Ok(DerivationOutput::InputAddressed(self.store.parse(path)?)),
            (_, "", _) => Err(Fault::OutputForm),
            ("", address, "") => {
                let (method, algo) = ContentAddressMethod::parse_with_algorithm(address)?;
                Ok(DerivationOutput::Floating { method, algo })
            }
            ("", address, "impure") => {
                let (method, algo) = ContentAddressMethod::parse_with_algorithm(address)?;
                Ok(DerivationOutput::Impure { method, algo })
            }
            ("", _, _) | (_, _, "" | "impure") => Err(Fault::OutputForm),
            (path, address, digest) => {
                let (method, algorithm) = ContentAddressMethod::parse_with_algorithm(address)?;
                let ca = ContentAddress { method, hash: lower_base16(digest, algorithm)? };
                Ok(DerivationOutput::Fixed { ca, path: self.store.parse(path)? })
            }
        }
    }

    fn input(&mut self) -> Result<(StorePath, BTreeSet<OutputName>), Fault> {
        let path = self.path()?;
        if !path.is_derivation() {
            return Err(Fault::InputIsNoDerivation);
        }
        self.expect(",")?;
        let outputs = self.set(Self::parsed)?;
        if outputs.is_empty() {
            return Err(Fault::NoInputOutputs);
        }
        Ok((path, outputs))
    }

    fn system(&mut self) -> Result<String, Fault> {
        let system = self.text()?;
        // Nix prints it as it is, so these would not read back.
        if system.contains(['"', '\\', '\n', '\r', '\t']) {
            return Err(Fault::BadSystem);
        }
        Ok(system)
    }

    fn path(&mut self) -> Result<StorePath, Fault> {
        Ok(self.store.parse(&self.text()?)?)
    }

    fn parsed<T: FromStr>(&mut self) -> Result<T, Fault>
    where
        Fault: From<T::Err>,
    {
        Ok(self.text()?.parse()?)
    }

    fn text(&mut self) -> Result<String, Fault> {
        String::from_utf8(self.string()?).map_err(|_| Fault::NotUtf8)
    }

    fn string(&mut self) -> Result<Vec<u8>, Fault> {
        self.expect("\"")?;
        let mut string = Vec::new();
        loop {
            let rest = &self.bytes[self.offset..];
            let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | b'\n' | b'\r' | b'\t');
            let plain = rest.iter().position(is_special).ok_or(Fault::UnterminatedString)?;
            string.extend_from_slice(&rest[..plain]);
            self.offset += plain;
            let (taken, byte) = match rest[plain..] {
                [b'"', ..] => {
                    self.offset += 1;
                    return Ok(string);
                }
                [b'\\', byte @ (b'"' | b'\\'), ..] => (2, byte),
                [b'\\', b'n', ..] => (2, b'\n'),
                [b'\\', b'r', ..] => (2, b'\r'),
                [b'\\', b't', ..] => (2, b'\t'),
                [b'\\'] => return Err(Fault::UnterminatedString),
                _ => return Err(Fault::BadEscape),
            };
            string.push(byte);
            self.offset += taken;
        }
    }

    fn map<K: Ord + Clone, V>(
        &mut self,
        mut entry: impl FnMut(&mut Self) -> Result<(K, V), Fault>,
    ) -> Result<BTreeMap<K, V>, Fault> {
        let mut map = BTreeMap::new();
        self.list(|cursor| {
            cursor.expect("(")?;
            let (key, value) = entry(cursor)?;
            cursor.expect(")")?;
            if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(Fault::OutOfOrder);
            }
            map.insert(key, value);
            Ok(())
        })?;
        Ok(map)
    }

    fn set<T: Ord>(&mut self, item: impl Fn(&mut Self) -> Result<T, Fault>) -> Result<BTreeSet<T>, Fault> {
        let mut set = BTreeSet::new();
        self.list(|cursor| {
            let item = item(cursor)?;
            if set.last().is_some_and(|last| *last >= item) {
                return Err(Fault::OutOfOrder);
            }
            set.insert(item);
            Ok(())
        })?;
        Ok(set)
    }

    fn list(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        self.expect("[")?;
        if self.skip("]") {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.skip("]") {
                return Ok(());
            }
            self.expect(",")?;
        }
    }

    fn expect(&mut self, text: &'static str) -> Result<(), Fault> {
        if self.skip(text) { Ok(()) } else { Err(Fault::Expected(text)) }
    }

    fn skip(&mut self, text: &str) -> bool {
        let is_here = self.bytes[self.offset..].starts_with(text.as_bytes());
        if is_here {
            self.offset += text.len();
        }
        is_here
    }
}

fn lower_base16(digest: &str, algorithm: HashAlgorithm) -> Result<Hash, HashError> {
    let is_lower =
        digest.len() == algorithm.size() * 2 && !digest.bytes().any(|byte| byte.is_ascii_uppercase());
    if !is_lower {
        return Err(HashError::WrongLength { algorithm, length: digest.len() });
    }
    Hash::parse_bare(digest, algorithm)
}

fn check_fixed_paths(store: &StoreDir, derivation: &Derivation) -> Result<(), DerivationError> {
    for (name, output) in &derivation.outputs {
        let DerivationOutput::Fixed { ca, path } = output else {
            continue;
        };
        let path_name = name.path_name(&derivation.name);
        let computed = addressing::fixed_path(store, &path_name, ca, &References::none())?;
        if computed != *path {
            return Err(DerivationError::WrongOutputPath {
                output: name.clone(),
                stated: path.clone(),
                computed,
            });
        }
    }
    Ok(())
}

//! From a derivation to one whose inputs are all store paths.

use std::collections::{BTreeMap, HashMap};

use super::{BasicDerivation, Derivation, DerivationError, DerivationKind, DerivationOutput};
use crate::addressing::output_path;
use crate::base32;
use crate::hash::NarHash;
use crate::store_path::{OutputName, StoreDir, StorePath};

/// Characters of a placeholder after its slash: base 32 of a SHA-256 digest.
const PLACEHOLDER_LEN: usize = base32::encoded_len(32);

impl Derivation {
    /// Replaces each input derivation by the paths of the outputs that are used, as `output_of` knows them.
    ///
    /// Where output paths of inputs were not known when the derivation was written (it is deferred, floating,
    /// impure or fixed), the placeholders that stood for them are replaced too, and deferred outputs get their
    /// path, as Nix does it.
    pub fn resolve(
        &self,
        store: &StoreDir,
        output_of: impl Fn(&StorePath, &OutputName) -> Option<StorePath>,
    ) -> Result<BasicDerivation, DerivationError> {
        let kind = self.kind()?;
        let mut input_srcs = self.input_srcs.clone();
        let mut placeholders = HashMap::new();
        for (drv, outputs) in &self.input_drvs {
            for output in outputs {
                let path = output_of(drv, output).ok_or_else(|| DerivationError::UnknownInputOutput {
                    drv: drv.clone(),
                    output: output.clone(),
                })?;
                if kind != DerivationKind::InputAddressed {
                    placeholders.insert(placeholder(drv, output), store.print(&path).into_bytes());
                }
                input_srcs.insert(path);
            }
        }
        let rewrite = |text: &Vec<u8>| replace_placeholders(text, &placeholders);
        let mut basic = BasicDerivation {
            name: self.name.clone(),
            outputs: self.outputs.clone(),
            input_srcs,
            system: self.system.clone(),
            builder: rewrite(&self.builder),
            args: self.args.iter().map(rewrite).collect(),
            env: self.env.iter().map(|(name, value)| (rewrite(name), rewrite(value))).collect(),
        };
        if kind == DerivationKind::Deferred {
            basic.fill_deferred_outputs(store)?;
        }
        Ok(basic)
    }
}

impl BasicDerivation {
    fn fill_deferred_outputs(&mut self, store: &StoreDir) -> Result<(), DerivationError> {
        let hash = self.masked_hash(store);
        let mut outputs = BTreeMap::new();
        for name in self.outputs.keys() {
            let path = output_path(store, &self.name, name, hash)?;
            self.env.insert(name.as_str().into(), store.print(&path).into_bytes());
            outputs.insert(name.clone(), DerivationOutput::InputAddressed(path));
        }
        self.outputs = outputs;
        Ok(())
    }
}

/// What stands in a derivation for an input's output whose path is not known yet, without its slash.
fn placeholder(drv: &StorePath, output: &OutputName) -> String {
    let derivation_name = drv.derivation_name().unwrap_or(drv.name());
    let name = output.path_name(derivation_name);
    let digest = NarHash::of(format!("nix-upstream-output:{}:{name}", drv.hash_part()).as_bytes());
    base32::encode(&digest.0)
}

fn replace_placeholders(text: &[u8], placeholders: &HashMap<String, Vec<u8>>) -> Vec<u8> {
    if placeholders.is_empty() {
        return text.to_vec();
    }
    let mut result = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(slash) = rest.iter().position(|byte| *byte == b'/') {
        result.extend_from_slice(&rest[..slash]);
        rest = &rest[slash..];
        let candidate = rest.get(1..=PLACEHOLDER_LEN).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let taken = if let Some(path) = candidate.and_then(|candidate| placeholders.get(candidate)) {
            result.extend_from_slice(path);
            PLACEHOLDER_LEN + 1
        } else {
            result.push(b'/');
            1
        };
        rest = &rest[taken..];
    }
    result.extend_from_slice(rest);
    result
}

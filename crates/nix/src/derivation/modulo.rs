//! The hash an input-addressed derivation's output paths follow from.
//!
//! It covers the derivation's text with each input derivation replaced by *its* hash, so that how a fixed
//! output was fetched does not matter. Graphs are walked with a stack of our own, never by recursion.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::aterm_print::{Parts, print};
use super::{BasicDerivation, Derivation, DerivationError, DerivationKind, DerivationOutput};
use crate::addressing::output_path;
use crate::base16;
use crate::hash::NarHash;
use crate::store_path::{OutputName, StoreDir, StorePath};

/// What stands for a derivation where it is an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuloHash {
    /// The hash of an input-addressed derivation.
    InputAddressed([u8; 32]),
    /// One hash for each output of a fixed-output derivation.
    Fixed(BTreeMap<OutputName, [u8; 32]>),
    /// Not known before something is built.
    Deferred,
}

/// Hashes by derivation path, kept across calls.
pub type ModuloMemo = HashMap<StorePath, ModuloHash>;

/// Adds to `memo` the hashes of `roots` and of all they need, reading derivations with `load`.
pub fn modulo_hashes<E: From<DerivationError>>(
    store: &StoreDir,
    roots: impl IntoIterator<Item = StorePath>,
    memo: &mut ModuloMemo,
    mut load: impl FnMut(&StorePath) -> Result<Derivation, E>,
) -> Result<(), E> {
    let mut waiting: Vec<(StorePath, Option<Derivation>)> =
        roots.into_iter().map(|root| (root, None)).collect();
    let mut entered = BTreeSet::new();
    while let Some((path, loaded)) = waiting.pop() {
        if memo.contains_key(&path) {
            continue;
        }
        if let Some(derivation) = loaded {
            let hash = derivation.modulo_hash(store, |input| memo.get(input))?;
            memo.insert(path, hash);
            continue;
        }
        if !entered.insert(path.clone()) {
            return Err(DerivationError::Cycle(path).into());
        }
        let derivation = load(&path)?;
        let inputs: Vec<_> = if derivation.kind()? == DerivationKind::InputAddressed {
            derivation.input_drvs.keys().filter(|input| !memo.contains_key(*input)).cloned().collect()
        } else {
            Vec::new()
        };
        waiting.push((path, Some(derivation)));
        waiting.extend(inputs.into_iter().map(|input| (input, None)));
    }
    Ok(())
}

impl Derivation {
    /// What stands for this derivation where it is an input. `lookup` must know its input derivations.
    pub fn modulo_hash<'m>(
        &self,
        store: &StoreDir,
        lookup: impl Fn(&StorePath) -> Option<&'m ModuloHash>,
    ) -> Result<ModuloHash, DerivationError> {
        match self.kind()? {
            DerivationKind::Fixed => Ok(ModuloHash::Fixed(self.fixed_hashes(store))),
            DerivationKind::InputAddressed => {
                let hash = self.hash_with(store, lookup, false)?;
                Ok(hash.map_or(ModuloHash::Deferred, ModuloHash::InputAddressed))
            }
            DerivationKind::Floating | DerivationKind::Deferred | DerivationKind::Impure => {
                Ok(ModuloHash::Deferred)
            }
        }
    }

    /// Refuses the derivation unless each input-addressed output has the path that follows from the derivation
    /// and from what `lookup` knows of its input derivations.
    pub fn check_output_paths<'m>(
        &self,
        store: &StoreDir,
        lookup: impl Fn(&StorePath) -> Option<&'m ModuloHash>,
    ) -> Result<(), DerivationError> {
        if self.kind()? != DerivationKind::InputAddressed {
            return Ok(());
        }
        let hash = self.hash_with(store, lookup, true)?;
        for (name, output) in &self.outputs {
            let DerivationOutput::InputAddressed(stated) = output else {
                continue;
            };
            let computed = hash.map(|hash| output_path(store, &self.name, name, hash)).transpose()?;
            match computed {
                None => return Err(DerivationError::NotYetKnown(name.clone())),
                Some(computed) if computed == *stated => {}
                Some(computed) => {
                    let (output, stated) = (name.clone(), stated.clone());
                    return Err(DerivationError::WrongOutputPath { output, stated, computed });
                }
            }
        }
        Ok(())
    }

    fn fixed_hashes(&self, store: &StoreDir) -> BTreeMap<OutputName, [u8; 32]> {
        let mut hashes = BTreeMap::new();
        for (name, output) in &self.outputs {
            if let DerivationOutput::Fixed { ca, path } = output {
                let method = ca.method_and_algorithm();
                let text = format!("fixed:out:{method}:{}:{}", ca.hash.to_base16(), store.print(path));
                hashes.insert(name.clone(), NarHash::of(text.as_bytes()).0);
            }
        }
        hashes
    }

    /// The hash of the text with input derivations replaced; `None` if that of an input is not known yet.
    fn hash_with<'m>(
        &self,
        store: &StoreDir,
        lookup: impl Fn(&StorePath) -> Option<&'m ModuloHash>,
        masked: bool,
    ) -> Result<Option<[u8; 32]>, DerivationError> {
        let mut inputs: BTreeMap<String, BTreeSet<OutputName>> = BTreeMap::new();
        for (drv, outputs) in &self.input_drvs {
            match lookup(drv).ok_or_else(|| DerivationError::UnknownInput(drv.clone()))? {
                ModuloHash::Deferred => return Ok(None),
                ModuloHash::InputAddressed(hash) => {
                    inputs.entry(base16::encode(hash)).or_default().extend(outputs.iter().cloned());
                }
                ModuloHash::Fixed(hashes) => {
                    for output in outputs {
                        let hash = hashes.get(output).ok_or_else(|| DerivationError::UnknownInputOutput {
                            drv: drv.clone(),
                            output: output.clone(),
                        })?;
                        inputs.entry(base16::encode(hash)).or_default().insert(OutputName::out());
                    }
                }
            }
        }
        let parts = Parts {
            outputs: &self.outputs,
            inputs: inputs.iter().map(|(hash, outputs)| (hash.clone(), outputs)).collect(),
            input_srcs: &self.input_srcs,
            system: &self.system,
            builder: &self.builder,
            args: &self.args,
            env: &self.env,
            masked,
        };
        Ok(Some(NarHash::of(&print(store, &parts)).0))
    }
}

impl BasicDerivation {
    /// The hash its input-addressed outputs follow from.
    pub(super) fn masked_hash(&self, store: &StoreDir) -> [u8; 32] {
        NarHash::of(&print(store, &self.parts(true))).0
    }
}

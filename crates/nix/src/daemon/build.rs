//! Builds.

use super::build_result::{BuildResult, read_build_result};
use super::codec::{self, Encoder};
use super::connection::Daemon;
use super::error::DaemonError;
use super::log::Observer;
use super::operation::Operation;
use super::values;
use crate::derivation::{BasicDerivation, DerivationOutput};
use crate::derived_path::DerivedPath;
use crate::store_path::{OutputName, StoreDir, StorePath};

/// Build what is not there; the others are repair and check.
const NORMAL: u64 = 0;

impl Daemon {
    /// Builds all outputs of a derivation that need not be in the store; its inputs must be. The daemon
    /// believes us that `derivation` belongs under `drv`, so it must trust us, unless the outputs are
    /// content-addressed.
    pub async fn build_derivation(
        &mut self,
        drv: &StorePath,
        derivation: &BasicDerivation,
        observer: Observer<'_>,
    ) -> Result<BuildResult, DaemonError> {
        let mut request = self.about(Operation::BuildDerivation, drv);
        request.basic_derivation(self.store_dir(), derivation).word(NORMAL);
        let mut answer = self.call(&request, observer).await?;
        let (store, dialect) = (answer.store, answer.dialect);
        let result = read_build_result(answer.reader(), store, dialect).await?;
        answer.end();
        Ok(result)
    }

    /// Builds or substitutes `targets`, whose derivations must be in the store. One result each, in the order
    /// of the daemon.
    pub async fn build_paths_with_results(
        &mut self,
        targets: &[DerivedPath],
        observer: Observer<'_>,
    ) -> Result<Vec<(DerivedPath, BuildResult)>, DaemonError> {
        let mut request = Encoder::new();
        request.word(Operation::BuildPathsWithResults.word());
        request.derived_paths(self.store_dir(), targets).word(NORMAL);
        let mut answer = self.call(&request, observer).await?;
        let (store, dialect) = (answer.store, answer.dialect);
        let reader = answer.reader();
        let mut results = Vec::new();
        for _ in 0..codec::read_count(reader, "a list of build results").await? {
            let path = values::read_derived_path(reader, store).await?;
            results.push((path, read_build_result(reader, store, dialect).await?));
        }
        answer.end();
        Ok(results)
    }
}

impl Encoder {
    /// A derivation without input derivations.
    pub fn basic_derivation(&mut self, store: &StoreDir, derivation: &BasicDerivation) -> &mut Self {
        self.list(&derivation.outputs, |out, (name, output)| out.derivation_output(store, name, output));
        self.paths(store, &derivation.input_srcs);
        self.bytes(&derivation.system).bytes(&derivation.builder);
        self.list(&derivation.args, |out, argument| out.bytes(argument));
        self.list(&derivation.env, |out, (name, value)| out.bytes(name).bytes(value))
    }

    fn derivation_output(
        &mut self,
        store: &StoreDir,
        name: &OutputName,
        output: &DerivationOutput,
    ) -> &mut Self {
        let (path, method, hash) = match output {
            DerivationOutput::InputAddressed(path) => (Some(path), String::new(), String::new()),
            DerivationOutput::Fixed { ca, path } => {
                (Some(path), ca.method_and_algorithm(), ca.hash.to_base16())
            }
            DerivationOutput::Floating { method, algo } => {
                (None, format!("{}{algo}", method.prefix()), String::new())
            }
            DerivationOutput::Deferred => (None, String::new(), String::new()),
            DerivationOutput::Impure { method, algo } => {
                (None, format!("{}{algo}", method.prefix()), "impure".to_owned())
            }
        };
        self.bytes(name.as_str()).optional_path(store, path).bytes(method).bytes(hash)
    }
}

//! The hosts of a flake: where they are, and what is wanted of them.

use std::fmt;

use crate::StorePath;

/// What kind of configuration a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigurationKind {
    /// `nixosConfigurations`
    Nixos,
    /// `darwinConfigurations`
    Darwin,
    /// `homeConfigurations`
    Home,
}

impl ConfigurationKind {
    /// Every kind there is.
    pub const ALL: [ConfigurationKind; 3] =
        [ConfigurationKind::Nixos, ConfigurationKind::Darwin, ConfigurationKind::Home];

    /// The flake output that holds configurations of this kind.
    pub fn attribute(self) -> &'static str {
        match self {
            ConfigurationKind::Nixos => "nixosConfigurations",
            ConfigurationKind::Darwin => "darwinConfigurations",
            ConfigurationKind::Home => "homeConfigurations",
        }
    }
}

/// One configuration of a flake. The name is data: any text may stand in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAttr {
    /// Which flake output it is in.
    pub kind: ConfigurationKind,
    /// The attribute's name there.
    pub name: String,
}

impl fmt::Display for HostAttr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{:?}", self.kind.attribute(), self.name)
    }
}

/// What a host evaluates to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toplevel {
    /// The derivation, which the store holds now.
    pub drv: StorePath,
    /// Which of its outputs is the toplevel.
    pub output_name: String,
    /// That output's path; nothing where it is known only after the build.
    pub output: Option<StorePath>,
}

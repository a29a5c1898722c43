//! Fleets written by hand, for what a recording does not have: hosts that fail, odd names, flakes that read
//! themselves.

use std::fmt::Write as _;
use std::path::Path;

use fleet_testkit::{GitRepo, NixDaemon};

/// A git repository with a flake of hosts.
#[derive(Debug)]
pub struct HandMadeFleet {
    /// Where it is.
    pub repo: GitRepo,
    system: String,
    hosts: Vec<(String, String)>,
}

/// Functions for the expressions of hosts. `package NAME SCRIPT` notes in the journal that it runs.
const PRELUDE: &str = r#"
    package = name: script: derivation {
      inherit name system;
      builder = "/bin/sh";
      args = [ "-c" "echo '${name}' >> /journal; ${script}" ];
    };
    # A fixed-output derivation that knows where it would be fetched from.
    fetched = url: content: derivation {
      inherit system url;
      name = "fetched";
      builder = "/bin/sh";
      args = [ "-c" "echo fetched >> /journal; echo '${content}' > $out" ];
      outputHashMode = "flat";
      outputHashAlgo = "sha256";
      outputHash = builtins.hashString "sha256" "${content}\n";
    };
    host = toplevel: { config.system.build = { inherit toplevel; }; };
"#;

impl HandMadeFleet {
    /// An empty repository below the daemon's scratch directory.
    pub fn new(daemon: &NixDaemon) -> HandMadeFleet {
        let system = daemon.nix_stdout(["eval", "--impure", "--raw", "--expr", "builtins.currentSystem"]);
        HandMadeFleet { repo: GitRepo::init(daemon.scratch().join("fleet")), system, hosts: Vec::new() }
    }

    /// Adds a host whose toplevel is a Nix expression, which may use `self` and the prelude.
    #[must_use]
    pub fn host(mut self, name: &str, toplevel: &str) -> Self {
        self.hosts.push((name.to_owned(), toplevel.to_owned()));
        self
    }

    /// Writes flake.nix and commits it.
    pub fn commit(&mut self) -> String {
        self.write();
        self.repo.commit("fleet: hosts")
    }

    /// Replaces a host's toplevel, without committing.
    pub fn replace(&mut self, name: &str, toplevel: &str) {
        self.hosts.retain(|(host, _)| host != name);
        self.hosts.push((name.to_owned(), toplevel.to_owned()));
        self.write();
    }

    /// The repository's directory.
    pub fn flake(&self) -> &Path {
        self.repo.path()
    }

    fn write(&self) {
        let mut hosts = String::new();
        for (name, toplevel) in &self.hosts {
            writeln!(hosts, "      {} = host ({toplevel});", nix_string(name)).expect("writing to a string");
        }
        let system = &self.system;
        let flake = format!(
            "{{\n  outputs = {{ self }}: let\n    system = \"{system}\";{PRELUDE}  in {{\n    nixosConfigurations = \
             {{\n{hosts}    }};\n  }};\n}}\n"
        );
        self.repo.write("flake.nix", flake);
    }
}

/// A name as a Nix string, for attribute names that are no identifiers.
fn nix_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${"))
}

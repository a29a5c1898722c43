//! A daemon, a proxy in front of it, and flakes to evaluate.

use std::sync::Arc;

use fleet_testkit::{GitRepo, NixDaemon, short_temp_dir};
use serde::Deserialize;
use tempfile::TempDir;

use crate::daemon::DaemonAddress;
use crate::evaluator::{ConfigurationKind, EvaluatorConfig, FlakeSource, HostAttr};
use crate::proxy::{BuildImports, ImportPolicy, LocalImports, ProxyConfig, StoreProxy};
use crate::{StoreDir, StorePath};

/// What most flakes of the tests begin with.
pub(crate) const PRELUDE: &str = r#"
    drv = name: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo ${name} > $out" ]; };
    ifd = script: derivation { name = "imported"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" script ]; };
    host = toplevel: { config.system.build = { inherit toplevel; }; };
"#;

pub(crate) struct Bench {
    pub(crate) proxy: StoreProxy,
    pub(crate) daemon: NixDaemon,
    pub(crate) directory: TempDir,
}

impl Bench {
    /// A trusting daemon that builds imports itself.
    pub(crate) async fn start() -> Bench {
        Bench::of(NixDaemon::start_default(), ImportPolicy::Allow, None).await
    }

    pub(crate) async fn of(
        daemon: NixDaemon,
        policy: ImportPolicy,
        imports: Option<Arc<dyn BuildImports>>,
    ) -> Bench {
        let directory = short_temp_dir();
        let address = DaemonAddress::from_store_uri(&daemon.store_uri()).expect("the daemon's address");
        let imports = imports.unwrap_or_else(|| Arc::new(LocalImports::new(address.clone())));
        let config = ProxyConfig::new(directory.path().join("proxy/s"), address, policy);
        let proxy = StoreProxy::start(config, imports).await.expect("the proxy starts");
        Bench { proxy, daemon, directory }
    }

    pub(crate) fn config(&self) -> EvaluatorConfig {
        let (home, cache) = (self.directory.path().join("homes"), self.directory.path().join("cache"));
        EvaluatorConfig::new(self.daemon.nix_bin(), self.proxy.store_uri(), home, cache)
    }

    /// A repository whose flake has these outputs; `self`, `drv`, `ifd` and `host` are in scope.
    pub(crate) fn flake(&self, outputs: &str) -> GitRepo {
        let mut repo = GitRepo::init(self.daemon.scratch().join("flake"));
        repo.write(
            "flake.nix",
            format!("{{ outputs = {{ self, ... }}: let {PRELUDE} in {{ {outputs} }}; }}"),
        );
        repo.commit("flake");
        repo
    }

    /// Has plain Nix bring a flake of git into the store.
    pub(crate) fn source(&self, repo: &GitRepo, subdir: Option<&str>) -> FlakeSource {
        let metadata = self.daemon.nix_stdout([
            "flake",
            "metadata",
            "--json",
            "--no-write-lock-file",
            &url(repo, subdir),
        ]);
        let Metadata { path, locked } = serde_json::from_str(&metadata).expect("metadata");
        let (path, _) = StoreDir::default().parse_within(&path).expect("a path in the store");
        FlakeSource {
            path,
            nar_hash: locked.nar_hash.parse().expect("a NAR hash"),
            rev: locked.rev,
            rev_count: locked.rev_count,
            last_modified: locked.last_modified,
            subdir: subdir.map(str::to_owned),
        }
    }

    /// The same for a flake that plain Nix cannot read.
    pub(crate) fn source_of_tree(&self, repo: &GitRepo) -> FlakeSource {
        let tree = self.daemon.scratch().join("tree");
        std::fs::create_dir_all(&tree).expect("a directory");
        std::fs::copy(repo.path().join("flake.nix"), tree.join("flake.nix")).expect("a copy");
        let path =
            self.daemon.nix_stdout(["store", "add", "--name", "source", tree.to_str().expect("UTF-8")]);
        let hash = self.daemon.nix_stdout(["hash", "path", "--sri", tree.to_str().expect("UTF-8")]);
        FlakeSource {
            path: StoreDir::default().parse(&path).expect("a store path"),
            nar_hash: hash.parse().expect("a NAR hash"),
            rev: None,
            rev_count: None,
            last_modified: 1,
            subdir: None,
        }
    }

    /// What plain `nix eval` says of an attribute.
    pub(crate) fn plain_eval(&self, repo: &GitRepo, subdir: Option<&str>, attribute: &str) -> String {
        let installable = format!("{}#{attribute}", url(repo, subdir));
        self.daemon.nix_stdout(["eval", "--raw", &installable])
    }

    /// The derivation that plain Nix instantiates for a host.
    pub(crate) fn plain_drv(&self, repo: &GitRepo, name: &str) -> StorePath {
        let attribute = format!("nixosConfigurations.\"{name}\".config.system.build.toplevel.drvPath");
        StoreDir::default().parse(&self.plain_eval(repo, None, &attribute)).expect("a store path")
    }
}

/// A host of NixOS's kind.
pub(crate) fn nixos(name: &str) -> HostAttr {
    HostAttr { kind: ConfigurationKind::Nixos, name: name.to_owned() }
}

fn url(repo: &GitRepo, subdir: Option<&str>) -> String {
    let subdir = subdir.map(|subdir| format!("?dir={subdir}")).unwrap_or_default();
    format!("git+file://{}{subdir}", repo.path().display())
}

#[derive(Deserialize)]
struct Metadata {
    path: String,
    locked: Locked,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Locked {
    last_modified: u64,
    nar_hash: String,
    rev: Option<String>,
    rev_count: Option<u64>,
}

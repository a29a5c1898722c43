//! Small build graphs in the format of the recorded ones, and the two repositories that replay one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fleet_testkit::{BinaryCache, NixDaemon};
use serde_json::{Value, json};

/// A graph in the making; nodes come after what they need.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<Value>,
    before: BTreeMap<String, usize>,
    after: BTreeMap<String, usize>,
}

/// A node of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(usize);

/// A graph replayed: repositories below a daemon's scratch directory.
#[derive(Debug)]
pub struct ReplayedFleet {
    directory: PathBuf,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// A package that keeps references to `inputs` and waits for a moment.
    pub fn package(&mut self, name: &str, inputs: &[Node]) -> Node {
        let deps: Vec<_> = inputs.iter().map(|input| json!([input.0, ["out"], true])).collect();
        self.push(json!({ "name": name, "outputs": ["out"], "deps": deps, "cost_ms": 5, "size_kib": 1 }))
    }

    /// A package whose builder takes minutes.
    pub fn endless_package(&mut self, name: &str, inputs: &[Node]) -> Node {
        let node = self.package(name, inputs);
        self.nodes[node.0]["cost_ms"] = json!(600_000);
        node
    }

    /// Makes a node one of another system than the machine's.
    pub fn build_on(&mut self, node: Node, system: &str) {
        self.nodes[node.0]["replay_system"] = json!(system);
    }

    /// Spreads all nodes over these systems in turn, so that inputs come from other systems than their users.
    #[must_use]
    pub fn spread_over(mut self, systems: &[&str]) -> Graph {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node["replay_system"] = json!(systems[number % systems.len()]);
        }
        self
    }

    /// Where each node builds, by name, of those that say so.
    pub fn systems(&self) -> BTreeMap<String, String> {
        let text = |node: &Value, key: &str| node[key].as_str().map(str::to_owned);
        self.nodes
            .iter()
            .filter_map(|node| Some((text(node, "name")?, text(node, "replay_system")?)))
            .collect()
    }

    /// How long each builder waits, milliseconds.
    #[must_use]
    pub fn each_taking(mut self, cost_ms: u32) -> Graph {
        for node in &mut self.nodes {
            node["cost_ms"] = json!(cost_ms);
        }
        self
    }

    /// A fixed-output derivation.
    pub fn source(&mut self, name: &str) -> Node {
        self.push(
            json!({ "name": name, "outputs": ["out"], "deps": [], "cost_ms": 5, "size_kib": 1, "fixed": true }),
        )
    }

    /// A host with a toplevel on each side; equal ones make an unchanged host.
    pub fn host(&mut self, name: &str, before: Node, after: Node) {
        self.before.insert(name.to_owned(), before.0);
        self.after.insert(name.to_owned(), after.0);
    }

    /// A fleet of six hosts: two web servers and a database that an update changes, two hosts that it does not
    /// touch, and one that is left out by default.
    pub fn small_fleet() -> Graph {
        let mut graph = Graph::new();
        let sources: Vec<_> =
            ["glibc-2.40.tar.xz", "openssl-3.tar.gz"].map(|name| graph.source(name)).to_vec();
        let glibc = graph.package("glibc-2.40", &sources[..1]);
        let openssl = graph.package("openssl-3.3.2", &[glibc, sources[1]]);
        let systemd = graph.package("systemd-256.7", &[glibc, openssl]);
        let etc = graph.package("etc-shared", &[glibc]);
        let [old_nginx, new_nginx] =
            ["nginx-1.26.2", "nginx-1.27.0"].map(|name| graph.package(name, &[openssl]));
        let database = graph.package("postgresql-16.4", &[openssl]);
        for (name, before, after) in [
            ("web1", old_nginx, new_nginx),
            ("web2", old_nginx, new_nginx),
            ("db1", database, new_nginx),
            ("mail1", database, database),
            ("mon1", etc, etc),
            ("tiny-minimal", etc, etc),
        ] {
            let before_top = graph.toplevel(name, before, &[systemd, etc]);
            let after_top =
                if before == after { before_top } else { graph.toplevel(name, after, &[systemd, etc]) };
            graph.host(name, before_top, after_top);
        }
        graph
    }

    /// The names of all nodes that a side's hosts need, toplevels included.
    pub fn names_needed_by(&self, hosts: &[&str]) -> Vec<String> {
        let roots =
            [&self.before, &self.after].map(|side| hosts.iter().map(|host| side[*host]).collect::<Vec<_>>());
        let mut open = roots.concat();
        let mut needed = std::collections::BTreeSet::new();
        while let Some(node) = open.pop() {
            if needed.insert(node) {
                let deps = self.nodes[node]["deps"].as_array().into_iter().flatten();
                open.extend(deps.filter_map(|dep| usize::try_from(dep[0].as_u64()?).ok()));
            }
        }
        needed.into_iter().filter_map(|node| self.nodes[node]["name"].as_str()).map(str::to_owned).collect()
    }

    fn toplevel(&mut self, host: &str, main: Node, shared: &[Node]) -> Node {
        let unit = self.package(&format!("unit-{host}.service"), &[main]);
        let etc = self.package(&format!("etc-{host}"), &[unit]);
        let inputs = [&[etc], shared].concat();
        self.package(&format!("nixos-system-{host}-24.11"), &inputs)
    }

    fn push(&mut self, node: Value) -> Node {
        self.nodes.push(node);
        Node(self.nodes.len() - 1)
    }

    fn to_json(&self) -> Value {
        json!({ "nodes": self.nodes, "before": self.before, "after": self.after })
    }
}

impl ReplayedFleet {
    /// Makes the repositories of a graph; waits are as recorded in it.
    pub fn make(daemon: &NixDaemon, graph: &Graph) -> ReplayedFleet {
        let file = daemon.scratch().join("graph.json");
        fs::write(&file, graph.to_json().to_string()).expect("the graph is written");
        ReplayedFleet::from_recording(daemon, &file, 1)
    }

    /// Makes the repositories of a recorded graph.
    pub fn from_recording(daemon: &NixDaemon, recording: &Path, divisor: u32) -> ReplayedFleet {
        let directory = daemon.scratch().join("replay");
        let mut make = Command::new(repository().join("examples/replay-fleet/make"));
        daemon.configure(&mut make);
        let output =
            make.arg(recording).arg(&directory).arg(divisor.to_string()).output().expect("make starts");
        assert!(output.status.success(), "make failed: {}", String::from_utf8_lossy(&output.stderr));
        ReplayedFleet { directory }
    }

    /// The fleet's repository: HEAD is after the update, HEAD~1 before it.
    pub fn flake(&self) -> PathBuf {
        self.directory.join("fleet")
    }

    /// Puts the sources into a cache, as a public one would have them.
    pub fn publish_sources(&self, publisher: &NixDaemon, cache: &BinaryCache) {
        let files = fs::read_dir(self.directory.join("sources")).expect("the sources are there");
        let files = files.map(|file| file.expect("a source").path());
        let output = publisher
            .command("nix-store", ["--add-fixed", "sha256"])
            .args(files)
            .output()
            .expect("nix-store starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let paths: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        cache.publish(publisher, &paths);
    }
}

/// The top of this repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the repository").to_owned()
}

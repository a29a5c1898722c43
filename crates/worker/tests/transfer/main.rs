//! Store paths between machines: real daemons with stores of their own, one coordinator, what one builds the other
//! needs.

mod fleet;

use fleet::{Flake, Fleet, here, here_script, there, there_script};
use fleet_nix::nar_dump::dump_path;
use fleet_testkit::{BinaryCache, NixDaemon, Trust};
use fleet_wire::v1::{RunOutcome, StepStatus};

/// The one path of a store that has this name.
fn path_named(daemon: &NixDaemon, name: &str) -> String {
    let entries = std::fs::read_dir(daemon.root().join("nix/store")).expect("a store");
    let names = entries.map(|entry| entry.expect("reads").file_name().to_string_lossy().into_owned());
    let found: Vec<String> = names.filter(|entry| entry.get(33..) == Some(name)).collect();
    let [one] = &found[..] else { panic!("not one path named {name}: {found:?}") };
    format!("/nix/store/{one}")
}

fn nar(daemon: &NixDaemon, path: &str) -> Vec<u8> {
    dump_path(&daemon.physical(path), Vec::new()).expect("it is in the store")
}

fn references(daemon: &NixDaemon, path: &str) -> Vec<String> {
    let output = daemon.command("nix-store", ["--query", "--references", path]).output().expect("starts");
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_machine_builds_is_an_input_on_another_and_equal_to_the_last_bit() {
    let cache = BinaryCache::start();
    let inner = here_script("inner", "", "echo inner > $out");
    let outer = here_script("outer", "", &format!("echo ${{{inner}}} > $out"));
    let upstream = here(|_| {});
    let published = upstream.build_expression(&outer);
    cache.publish(&upstream, &published);
    let (first, second) = (
        here(|options| options.substituters = vec![cache.url()]),
        there(|options| options.substituters = vec![cache.url()]),
    );
    let fleet = Fleet::start().await;
    let _first = fleet.join(&first, "first", 1).await;
    let _second = fleet.join(&second, "second", 0).await;

    let base = here_script(
        "base",
        "outputs = [ \"out\" \"dev\" ];",
        &format!(
            "mkdir -p $out/bin $out/empty; echo \"echo of $out\" > $out/bin/tool; chmod 755 $out/bin/tool; \
             ln -s $out/bin/tool $out/absolute; ln -s ../nowhere $out/relative; echo $out > $dev; \
             echo ${{{outer}}} > $out/upstream"
        ),
    );
    let middle = there_script(
        "middle",
        "",
        &format!(". ${{{base}}}/bin/tool > $out; read dev < ${{{base}.dev}}; echo $dev >> $out"),
    );
    let top = here_script("top", "", &format!("read line < ${{{middle}}}; echo $line ${{{middle}}} > $out"));
    let ended = fleet.build(&Flake::of(&top)).await;
    assert_eq!(ended.outcome, RunOutcome::Succeeded, "{ended:#?}");

    assert_eq!(first.journal().lines(), ["base", "top"]);
    assert_eq!(second.journal().lines(), ["middle"]);
    let (out, dev) = (path_named(&first, "base"), path_named(&first, "base-dev"));
    for path in [&out, &dev] {
        assert!(nar(&first, path) == nar(&second, path), "{path} differs");
        assert_eq!(references(&first, path), references(&second, path));
    }
    assert!(references(&second, &out).contains(&out), "it refers to itself");
    let (outer, inner) = (published[0].clone(), path_named(&upstream, "inner"));
    assert!(second.physical(&inner).exists(), "the closure of what upstream serves is there");
    assert!(fleet.stored(&[&outer, &inner]).await.is_empty(), "and came from there");
    let middle = path_named(&first, "middle");
    let text = std::fs::read_to_string(first.physical(&middle)).expect("it came back");
    assert_eq!(text, format!("of {out}\n{out}\n"));
}

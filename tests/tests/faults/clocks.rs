//! Wall clocks that jump by an hour under a coordinator or a worker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use fleet_testkit::{DaemonOptions, Direction, FaultProxy};
use fleet_tests::{Farm, FarmOptions};

use super::{Flake, SYSTEM, starts, taking, wait_for_build};

/// Adds to the wall clock, and to no other, as many seconds as the program's file in `CLOCKS_AHEAD` holds by now.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile long long *ahead;
__attribute__((constructor)) static void begin(void) {
    char path[4096];
    const char *directory = getenv("CLOCKS_AHEAD");
    if (!directory) return;
    snprintf(path, sizeof path, "%s/%s", directory, program_invocation_short_name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *mapped = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) ahead = mapped;
    close(file);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (!result && clock == CLOCK_REALTIME && ahead) now->tv_sec += *ahead;
    return result;
}
"#;

/// The clocks of all coordinators and workers that run with its environment.
struct Clocks {
    directory: PathBuf,
}

impl Clocks {
    fn make(place: &Path) -> Clocks {
        let (source, library) = (place.join("clock.c"), place.join("clock.so"));
        fs::write(&source, SHIM).expect("written");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).args([&library, &source]);
        assert!(cc.status().expect("a C compiler, which SQLite needs as well").success());
        let clocks = Clocks { directory: place.to_owned() };
        for program in ["fleet-coordinator", "fleet-worker"] {
            clocks.set(program, 0);
        }
        clocks
    }

    fn environment(&self) -> Vec<(String, String)> {
        let shown = |path: &Path| path.display().to_string();
        let library = shown(&self.directory.join("clock.so"));
        vec![("LD_PRELOAD".to_owned(), library), ("CLOCKS_AHEAD".to_owned(), shown(&self.directory))]
    }

    fn set(&self, program: &str, seconds: i64) {
        // In place: the programs have it mapped.
        let mut file = fs::File::options();
        let file = file.create(true).truncate(false).write(true).open(self.directory.join(program));
        let file = file.expect("a file");
        std::os::unix::fs::FileExt::write_all_at(&file, &seconds.to_ne_bytes(), 0).expect("written");
    }
}

#[test]
fn a_worker_s_clock_that_jumps_costs_no_lease() {
    let place = fleet_testkit::short_temp_dir();
    let clocks = Clocks::make(place.path());
    let coordinator = "[workers]\naway = \"5s\"\nheartbeat = \"1s\"\n".to_owned();
    let environment = clocks.environment();
    let mut farm = Farm::start(FarmOptions { coordinator, environment, ..FarmOptions::default() });
    farm.add_worker("only", SYSTEM, 1);
    let flake = Flake::of(&[("web", taking("web", 9))]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "only", "web");
    for seconds in [3600, 0, -3600, 0] {
        clocks.set("fleet-worker", seconds);
        std::thread::park_timeout(Duration::from_secs(2));
        assert_eq!(farm.listed("only")["state"], "connected", "{seconds} s ahead");
    }
    let outcome = run.finish();
    outcome.expect_code(0);
    assert_eq!(starts(&farm, "web"), 1, "{outcome}");
    assert_eq!(outcome.json()["steps"]["built"], 1, "{outcome}");
}

#[test]
fn a_coordinator_s_clock_that_jumps_while_a_worker_is_away_costs_no_lease() {
    let place = fleet_testkit::short_temp_dir();
    let clocks = Clocks::make(place.path());
    let coordinator = "[workers]\naway = \"2m\"\nheartbeat = \"1s\"\n".to_owned();
    let environment = clocks.environment();
    let mut farm = Farm::start(FarmOptions { coordinator, environment, ..FarmOptions::default() });
    let proxy = FaultProxy::start(([127, 0, 0, 1], farm.port()).into());
    let url = format!("https://localhost:{}", proxy.address().port());
    farm.add_worker_at("far", SYSTEM, 1, &url, DaemonOptions::default());
    let flake = Flake::of(&[("web", taking("web", 8))]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "far", "web");
    proxy.silence(Direction::Upstream);
    proxy.silence(Direction::Downstream);
    proxy.cut();
    for seconds in [3600, 0, -3600, 0] {
        std::thread::park_timeout(Duration::from_secs(1));
        assert_eq!(farm.listed("far")["state"], "away", "{seconds} s ahead");
        clocks.set("fleet-coordinator", seconds);
    }
    proxy.heal();
    let outcome = run.finish();
    outcome.expect_code(0);
    assert_eq!(starts(&farm, "web"), 1, "{outcome}");
}

#[test]
fn the_coordinator_goes_by_the_clock_that_the_others_turn() {
    let place = fleet_testkit::short_temp_dir();
    let clocks = Clocks::make(place.path());
    let environment = clocks.environment();
    let mut farm = Farm::start(FarmOptions { environment, ..FarmOptions::default() });
    farm.add_worker("only", SYSTEM, 1);
    let flake = Flake::of(&[("web", taking("web", 0))]);
    clocks.set("fleet-coordinator", 3600);
    farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).run().expect_code(0);
    let runs = farm.fleetctl().args(["runs", "--json"]).run().json();
    let submitted = runs["runs"][0]["submitted_unix_ms"].as_u64().expect("when it came");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis();
    assert!(u128::from(submitted) > now + 3_000_000, "{submitted} is not an hour ahead of {now}");
}

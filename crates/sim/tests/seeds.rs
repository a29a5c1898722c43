//! Many seeds, each a different fleet in trouble.
use fleet_sim::simulate;
#[test]
fn try_it() {
    let mut total = fleet_sim::Summary::default();
    for seed in 0..12000 {
        match std::panic::catch_unwind(|| simulate(seed, |_| {})) {
            Ok(Ok(s)) => {
                total.events += s.events;
                total.runs += s.runs;
                total.leases += s.leases;
            }
            Ok(Err(e)) => panic!("{e}"),
            Err(_) => panic!("seed {seed} panicked"),
        }
    }
    println!("{total:?}");
}

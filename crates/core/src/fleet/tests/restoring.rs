//! Restarts: what was recorded makes the same fleet again, and nothing is lost or built twice.

use super::random::Trouble;
use super::*;

/// Random fleets; each is restored many times on its way.
const SEEDS: u64 = 40;

#[test]
fn whatever_happens_the_records_restore_the_same_fleet_and_runs_end() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut trouble = Trouble::new(seed);
        for _ in 0..250 {
            trouble.act();
        }
        trouble.heal();
        trouble.stage.check_restored();
    }
}

#[test]
fn a_restored_fleet_goes_on_as_the_one_that_wrote_its_records() {
    for seed in 0..10 {
        let mut trouble = Trouble::new(seed);
        for _ in 0..100 {
            trouble.act();
        }
        let mut restored = trouble.stage.restored();
        let before = trouble.stage.events;
        let mut told = Vec::new();
        trouble.stage.script = Some(Vec::new());
        for _ in 0..40 {
            trouble.act();
        }
        told.append(trouble.stage.script.as_mut().unwrap());
        assert_eq!(told.len(), trouble.stage.events - before);
        for (now, event, effects) in told {
            if matches!(event, Event::Restarted { .. }) {
                break;
            }
            assert_eq!(restored.apply(now, event), effects);
        }
    }
}

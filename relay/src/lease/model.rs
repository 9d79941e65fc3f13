//! Random schedules of two or three relays, a database and what can go wrong between them: never two that may publish.
//!
//! Time is counted in true microseconds. Each relay has a monotonic clock that runs up to a tenth too fast or too slow; the
//! database's clock jumps. Requests arrive late, long after their sender gave up, or not at all, and so do answers. Relays are
//! paused, killed, stopped and started. All that the relays do is decided by [`Contender`].

use std::time::{Duration, Instant};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

use super::{
    contender::{Contender, Next, Terms},
    sign::Life,
    *,
};

mod world;

use world::{Flaw, World};

/// Schedules of one test run.
const SCHEDULES: u32 = 3_000;
const LEASE: Duration = Duration::from_secs(3);
/// Long enough for every pause, and then for a take-over.
const QUIET_US: u64 = 60_000_000;

/// What happens to relay `who`, or to the database.
#[derive(Clone, Debug)]
enum Fault {
    Pause { who: usize, us: u64 },
    Kill { who: usize },
    Stop { who: usize },
    Start { who: usize },
    ClockJump { ms: i64 },
}

/// How long a request and its answer take, and which of them never arrives.
#[derive(Clone, Copy, Debug)]
struct Trip {
    there_us: u64,
    back_us: u64,
    request_lost: bool,
    answer_lost: bool,
}

#[derive(Clone, Debug)]
struct Schedule {
    /// Rate of each clock in thousandths, and its host.
    relays: Vec<(u64, u8)>,
    faults: Vec<(u64, Fault)>,
    trips: Vec<Trip>,
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let relays = prop::collection::vec((900..=1_100u64, 0..2u8), 2..=3);
    let who = || 0..3usize;
    let fault = prop_oneof![
        4 => (who(), 1_000..12_000_000u64).prop_map(|(who, us)| Fault::Pause { who, us }),
        1 => who().prop_map(|who| Fault::Kill { who }),
        1 => who().prop_map(|who| Fault::Stop { who }),
        2 => who().prop_map(|who| Fault::Start { who }),
        1 => (-20_000..20_000i64).prop_map(|ms| Fault::ClockJump { ms }),
    ];
    let faults = prop::collection::vec((0..4_000_000u64, fault), 0..25);
    let us = || prop_oneof![6 => 100..20_000u64, 2 => 20_000..900_000u64, 1 => 900_000..9_000_000u64];
    let lost = || prop::bool::weighted(0.05);
    let trip = (us(), us(), lost(), lost()).prop_map(|(there_us, back_us, request_lost, answer_lost)| Trip {
        there_us,
        back_us,
        request_lost,
        answer_lost,
    });
    let trips = prop::collection::vec(trip, 40);
    (relays, faults, trips).prop_map(|(relays, faults, trips)| Schedule { relays, faults, trips })
}

/// Two relays may never publish at the same time, and when all is quiet again one does.
fn check(schedule: &Schedule, flaw: Option<Flaw>) -> Result<(), TestCaseError> {
    let mut world = World::new(schedule, flaw);
    let mut at = 0;
    for (after, fault) in &schedule.faults {
        at += after;
        world.run_until(at)?;
        world.apply(fault);
    }
    world.be_quiet();
    world.run_until(at + QUIET_US)?;
    let living = world.living();
    let publishing = world.publishing();
    prop_assert_eq!(publishing, living.min(1), "{} live, {} publish, when all is quiet", living, publishing);
    Ok(())
}

fn run(flaw: Option<Flaw>) -> Result<(), String> {
    let seed = std::env::var("BARID_TEST_SEED").map_or(7, |seed| seed.parse().expect("a number"));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&u64::to_le_bytes(seed));
    let max_shrink_iters = if flaw.is_some() { 0 } else { 10_000 };
    let config =
        Config { cases: SCHEDULES, max_shrink_iters, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    match runner.run(&schedule(), |schedule| check(&schedule, flaw)) {
        Err(TestError::Fail(reason, schedule)) => {
            Err(format!("BARID_TEST_SEED={seed}: {reason}\n{schedule:#?}"))
        }
        other => other.map_err(|error| error.to_string()),
    }
}

#[test]
fn never_two_that_may_publish() {
    if let Err(broken) = run(None) {
        panic!("{broken}");
    }
}

/// The schedules notice each way to get it wrong that looks right.
#[test]
fn every_flaw_is_noticed() {
    for flaw in Flaw::ALL {
        assert!(run(Some(flaw)).is_err(), "{flaw:?} is not noticed by {SCHEDULES} schedules");
    }
}

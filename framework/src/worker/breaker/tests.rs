use proptest::prelude::*;

use super::{Verdict::*, *};

const SETTINGS: CircuitBreaker = CircuitBreaker {
    failures_percent: 50,
    messages_min: NonZeroU32::new(4).unwrap(),
    window: Duration::from_secs(10),
    pause: Duration::from_secs(5),
};

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A message is received and ends like this.
    Message(Verdict),
    /// So many seconds pass.
    Passes(u64),
}
use Event::{Message, Passes};

fn check(events: &[Event], circuit: Circuit, gate: fn(&Gate) -> bool) {
    let mut now = Instant::now();
    let mut breaker = Breaker::new(SETTINGS, now);
    for event in events {
        match event {
            Message(verdict) => {
                let ticket = breaker.enter();
                breaker.ended(ticket, *verdict, now);
            }
            Passes(seconds) => now += Duration::from_secs(*seconds),
        }
    }
    let asked = breaker.gate(now);
    assert!(gate(&asked), "{events:?}: {asked:?}");
    assert_eq!(breaker.circuit(), circuit, "{events:?}");
}

fn open(gate: &Gate) -> bool {
    matches!(gate, Gate::Receive)
}

fn shut(gate: &Gate) -> bool {
    matches!(gate, Gate::Wait(_))
}

const GOOD: Event = Message(Success);
const BAD: Event = Message(Failure);
const NEITHER: Event = Message(Neither);

#[test]
fn what_opens_it() {
    check(&[], Circuit::Closed, open);
    check(&[BAD, BAD, BAD], Circuit::Closed, open); // fewer than the minimum
    check(&[BAD, BAD, BAD, BAD], Circuit::Open, shut);
    check(&[GOOD, GOOD, BAD, BAD], Circuit::Open, shut); // exactly the share
    check(&[GOOD, GOOD, GOOD, BAD, BAD], Circuit::Closed, open);
    check(&[GOOD, GOOD, GOOD, BAD, BAD, BAD], Circuit::Open, shut);
    check(&[BAD, BAD, BAD, NEITHER, NEITHER], Circuit::Closed, open); // these do not count, not even for the minimum
    check(&[BAD, BAD, BAD, NEITHER, BAD], Circuit::Open, shut);
    check(&[BAD, BAD, BAD, GOOD], Circuit::Open, shut); // the minimum may be reached by a success
}

#[test]
fn the_window_forgets() {
    check(&[BAD, BAD, BAD, Passes(11), BAD], Circuit::Closed, open);
    check(&[BAD, BAD, BAD, Passes(8), BAD], Circuit::Open, shut);
    check(&[GOOD, GOOD, GOOD, GOOD, Passes(8), BAD, BAD, BAD, Passes(3), BAD], Circuit::Open, shut);
    check(&[BAD, BAD, BAD, Passes(1_000_000), GOOD, BAD, BAD], Circuit::Closed, open);
}

#[test]
fn how_it_closes_again() {
    let opened = [BAD, BAD, BAD, BAD];
    let then = |events: &[Event]| [&opened, events].concat();
    check(&then(&[Passes(4)]), Circuit::Open, shut);
    check(&then(&[Passes(5)]), Circuit::HalfOpen, open);
    check_trial(Success, Circuit::Closed, open);
    check_trial(Neither, Circuit::HalfOpen, open);
    check_trial(Failure, Circuit::Open, shut);
}

/// What the one message that is let through decides.
fn check_trial(verdict: Verdict, circuit: Circuit, gate: fn(&Gate) -> bool) {
    let mut now = Instant::now();
    let mut breaker = Breaker::new(SETTINGS, now);
    for _ in 0..4 {
        let ticket = breaker.enter();
        breaker.ended(ticket, Failure, now);
    }
    now += SETTINGS.pause;
    assert_eq!(breaker.gate(now), Gate::Receive);
    let ticket = breaker.enter();
    assert_eq!(breaker.gate(now), Gate::WaitForTrial, "only one at a time");
    breaker.ended(ticket, verdict, now);
    assert_eq!(breaker.circuit(), circuit, "{verdict:?}");
    let asked = breaker.gate(now);
    assert!(gate(&asked), "{verdict:?}: {asked:?}");
    if let Gate::Wait(until) = asked {
        assert_eq!(until, now + SETTINGS.pause, "a whole new pause");
    }
}

#[test]
fn messages_from_before_decide_nothing() {
    let now = Instant::now();
    let mut breaker = Breaker::new(SETTINGS, now);
    let old: Vec<_> = (0..8).map(|_| breaker.enter()).collect();
    for ticket in &old[..4] {
        breaker.ended(*ticket, Failure, now);
    }
    // One that was received when it had opened meanwhile: handled, not counted.
    let late = breaker.enter();
    breaker.ended(old[4], Success, now);
    breaker.ended(late, Success, now);
    assert_eq!(breaker.circuit(), Circuit::Open);
    let then = now + SETTINGS.pause;
    assert_eq!(breaker.gate(then), Gate::Receive);
    breaker.ended(old[5], Success, then);
    assert_eq!(breaker.circuit(), Circuit::HalfOpen, "only the trial closes it");
    let trial = breaker.enter();
    breaker.ended(old[6], Failure, then);
    assert_eq!(breaker.gate(then), Gate::WaitForTrial, "only the trial opens it");
    breaker.ended(trial, Success, then);
    breaker.ended(old[7], Failure, then);
    assert_eq!(breaker.circuit(), Circuit::Closed);
}

proptest! {
    /// Whatever happens: messages go on sooner or later, one at a time while half open, none while open, and it never opens
    /// with fewer failures than the share of the minimum.
    #[test]
    fn a_schedule(steps in prop::collection::vec((0_u8..6, 0_u64..4), 1..300)) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS, now);
        let mut under_way: Vec<(Ticket, Circuit)> = Vec::new();
        let mut failures_since_closed = 0;
        for (step, seconds) in steps {
            now += Duration::from_secs(seconds);
            match (step, under_way.pop()) {
                (0..3, popped) => {
                    under_way.extend(popped);
                    let gate = breaker.gate(now);
                    let circuit = breaker.circuit();
                    match gate {
                        Gate::Receive => {
                            prop_assert_ne!(circuit, Circuit::Open);
                            let ticket = breaker.enter();
                            if circuit == Circuit::HalfOpen {
                                prop_assert!(!under_way.iter().any(|(other, _)| *other == ticket), "one at a time");
                            }
                            under_way.push((ticket, circuit));
                        }
                        Gate::Wait(until) => {
                            prop_assert!(until > now && until <= now + SETTINGS.pause);
                        }
                        Gate::WaitForTrial => {
                            let trials = under_way.iter().filter(|(ticket, taken)| ticket.0 == breaker.number && *taken == Circuit::HalfOpen);
                            prop_assert_eq!(trials.count(), 1, "what it waits for is under way");
                        }
                    }
                }
                (_, None) => {}
                (verdict, Some((ticket, _))) => {
                    let verdict = [Success, Failure, Neither][usize::from(verdict) - 3];
                    let before = breaker.circuit();
                    failures_since_closed += u32::from(verdict == Failure && ticket.0 == breaker.number);
                    breaker.ended(ticket, verdict, now);
                    if before == Circuit::Closed && breaker.circuit() == Circuit::Open {
                        prop_assert!(failures_since_closed * 2 >= SETTINGS.messages_min.get());
                    }
                    if breaker.circuit() != before {
                        failures_since_closed = 0;
                    }
                }
            }
        }
        // Everything under way ends well, and time passes: it receives again.
        for (ticket, _) in under_way {
            breaker.ended(ticket, Success, now);
        }
        now += SETTINGS.pause;
        prop_assert_eq!(breaker.gate(now), Gate::Receive);
        let ticket = breaker.enter();
        breaker.ended(ticket, Success, now);
        if breaker.circuit() == Circuit::Open {
            now += SETTINGS.pause;
            prop_assert_eq!(breaker.gate(now), Gate::Receive);
            let ticket = breaker.enter();
            breaker.ended(ticket, Success, now);
        }
        prop_assert_eq!(breaker.circuit(), Circuit::Closed);
    }
}

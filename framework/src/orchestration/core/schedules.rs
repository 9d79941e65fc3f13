//! Drives the core through thousands of schedules: answers that are lost, processes that die before and after every save and
//! every effect, requests of dead processes that arrive late, and humans who retry or skip.
//!
//! The world is what a database with markers is (`store::orchestration`): an action is done once, never after its compensation was
//! there; a compensation undoes what was done, once.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    Answer, Direction, Effect, Input, Outcome, Plan, Rules, State, StepStatus, resumed, skipped, step,
};
use crate::retry::RetryPolicy;

/// The database of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Place {
    /// The marker of the action: it was done (`true`), or never will be.
    action: Option<bool>,
    compensated: bool,
    effects: u32,
    undone: u32,
}

impl Place {
    fn act(&mut self) -> Answer {
        match self.action {
            Some(true) => Answer::Done,
            Some(false) => Answer::Refused,
            None => {
                (self.action, self.effects) = (Some(true), self.effects + 1);
                Answer::Done
            }
        }
    }

    fn compensate(&mut self) -> Answer {
        let done = *self.action.get_or_insert(false);
        if !std::mem::replace(&mut self.compensated, true) {
            self.undone += u32::from(done);
        }
        Answer::Done
    }

    fn settle(&mut self) -> bool {
        *self.action.get_or_insert(false)
    }
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Act(usize),
    Compensate(usize),
}

struct World {
    plan: Plan,
    saved: State,
    places: Vec<Place>,
    /// Requests whose processes are dead, and which arrive all the same.
    late: Vec<Request>,
    /// What was decided by hand.
    skipped: Vec<usize>,
    over: Option<Outcome>,
}

/// What befalls the next attempt: the schedule, as a list of numbers. Without more of them everything goes well.
struct Schedule(std::vec::IntoIter<u8>);

impl Schedule {
    fn next(&mut self, of: u8) -> u8 {
        self.0.next().map_or(0, |number| number % of)
    }
}

impl World {
    /// One process takes the saga and goes on until it dies, pauses, or is done.
    fn process(&mut self, schedule: &mut Schedule) {
        let (mut state, mut effects) = step(&self.plan, self.saved.clone(), Input::Resume, 0.5);
        'answers: loop {
            let mut input = None;
            for effect in effects {
                // It may die before anything, a save included.
                if schedule.next(12) == 11 {
                    return;
                }
                let saves = matches!(
                    effect,
                    Effect::Hold | Effect::Pause(_) | Effect::Finish(_) | Effect::AskForHelp
                );
                if saves {
                    assert!(self.may_follow(&state), "{:?} after {:?}", state, self.saved);
                    self.saved = state.clone();
                }
                input = match effect {
                    Effect::Pause(_) => return,
                    Effect::Finish(outcome) => return self.over = Some(outcome),
                    Effect::AskForHelp => return self.human(schedule),
                    Effect::Act(at) => Some(Input::Acted(at, self.request(Request::Act(at), schedule))),
                    Effect::Compensate(at) => {
                        Some(Input::Compensated(at, self.request(Request::Compensate(at), schedule)))
                    }
                    Effect::Settle(at) => {
                        let known = schedule.next(3) != 1;
                        Some(Input::Settled(at, known.then(|| self.places[at].settle())))
                    }
                    Effect::Hold | Effect::Alert(_) => input,
                };
                if input.is_some() && schedule.next(8) == 7 {
                    return; // it dies before it has written down what it heard
                }
            }
            let Some(answer) = input else { panic!("nothing follows, and it is not over") };
            if schedule.next(9) == 8 {
                state = step(&self.plan, state, Input::Overdue, 0.5).0;
            }
            (state, effects) = step(&self.plan, state, answer, 0.5);
            if schedule.next(4) == 3 {
                self.arrive(schedule);
            }
            continue 'answers;
        }
    }

    /// What goes back never goes forward again.
    fn may_follow(&self, state: &State) -> bool {
        self.saved.direction == Direction::Forward || state.direction == Direction::Back
    }

    fn request(&mut self, request: Request, schedule: &mut Schedule) -> Answer {
        match schedule.next(8) {
            1 => Answer::Failed,
            2 => Answer::Permanent,
            3 => Answer::Busy,
            // Done, and nobody hears of it.
            4 => {
                self.carry_out(request);
                Answer::InDoubt
            }
            // Not done, and nobody knows.
            5 => Answer::InDoubt,
            // Under way, and nobody waits for it any more.
            6 => {
                self.late.push(request);
                Answer::InDoubt
            }
            _ => self.carry_out(request),
        }
    }

    fn carry_out(&mut self, request: Request) -> Answer {
        match request {
            Request::Act(at) => self.places[at].act(),
            Request::Compensate(at) => self.places[at].compensate(),
        }
    }

    fn arrive(&mut self, schedule: &mut Schedule) {
        if let Some(request) = self.late.pop()
            && schedule.next(2) == 0
        {
            self.carry_out(request);
        }
    }

    fn human(&mut self, schedule: &mut Schedule) {
        let Some(at) = self.saved.stuck() else { panic!("nobody waits for a human") };
        if schedule.next(2) == 0 {
            self.saved = resumed(self.saved.clone());
        } else {
            self.saved = skipped(self.saved.clone(), at, "step").unwrap();
            self.skipped.push(at);
        }
    }

    /// What must hold at every moment.
    fn check(&self) {
        for (at, place) in self.places.iter().enumerate() {
            assert!(place.effects <= 1 && place.undone <= place.effects, "step {at}: {place:?}");
            let beyond = self.plan.pivot.is_some_and(|pivot| at >= pivot);
            assert!(!beyond || place.undone == 0, "step {at} is not undone: {place:?}");
        }
        if let Some(pivot) = self.plan.pivot {
            let way_back = self.saved.direction == Direction::Back;
            assert!(!way_back || self.places[pivot].effects == 0, "no way back from the pivot");
        }
    }

    /// What must hold when it is over, and everything that was under way has arrived.
    fn check_end(&self, outcome: Outcome) {
        for (at, place) in self.places.iter().enumerate() {
            let by_hand = self.skipped.contains(&at);
            let compensates = self.plan.steps[at].compensates;
            let expected = match outcome {
                Outcome::Completed => place.effects == 1 && place.undone == 0,
                Outcome::Compensated => {
                    place.effects == place.undone || !compensates && self.plan.pivot.is_none()
                }
            };
            assert!(expected || by_hand, "{outcome:?}, step {at}: {place:?} in {:?}", self.saved);
        }
    }
}

fn plans() -> impl Strategy<Value = Plan> {
    let tries = |attempts_max| RetryPolicy {
        attempts_max,
        immediate_max: 1,
        pause: Duration::from_millis(1),
        pause_max: Duration::from_millis(1),
    };
    let rules = (any::<bool>(), any::<bool>(), 1..4_u32, 1..4_u32);
    (proptest::collection::vec(rules, 1..5), proptest::option::of(0..4_usize)).prop_map(
        move |(all, pivot)| {
            let pivot = pivot.filter(|pivot| *pivot < all.len());
            let steps = all.into_iter().enumerate().map(
                |(at, (compensates, retries_doubt, action, compensation))| {
                    // Before a pivot everything can be undone; without one some have nothing to undo.
                    let compensates = pivot.map_or(compensates, |pivot| at < pivot);
                    Rules {
                        compensates,
                        retries_doubt,
                        action: tries(action),
                        compensation: tries(compensation),
                    }
                },
            );
            Plan { steps: steps.collect(), pivot }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_step_is_done_once_at_most_and_undone_when_it_has_to_be(
        plan in plans(),
        schedule in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let steps = plan.steps.len();
        let mut world = World {
            plan,
            saved: State::new(steps),
            places: vec![Place::default(); steps],
            late: Vec::new(),
            skipped: Vec::new(),
            over: None,
        };
        let mut schedule = Schedule(schedule.into_iter());
        for _ in 0..500 {
            if world.over.is_some() {
                break;
            }
            world.process(&mut schedule);
            world.check();
        }
        let Some(outcome) = world.over else { panic!("it does not end: {:?}", world.saved) };
        for request in std::mem::take(&mut world.late) {
            world.carry_out(request);
        }
        world.check();
        world.check_end(outcome);
        prop_assert!(world.saved.steps.iter().all(|step| step.status != StepStatus::Stuck));
    }
}

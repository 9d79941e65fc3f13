//! The exhaustive search: breadth first, so that what it finds it finds by the fewest steps.

use std::collections::{HashMap, VecDeque};

use crate::world::World;

/// What a search came to.
#[derive(Debug)]
#[allow(dead_code)] // what is only printed when a model fails
pub(crate) enum Verdict {
    /// No state breaks a promise, and from each of them a finished one can be reached.
    Sound { states: usize, steps: usize },
    /// A promise is broken.
    Unsafe { steps: usize, why: String },
    /// No finished state can be reached any more from a state that so many steps lead to.
    Stuck { steps: usize, world: String },
}

pub(crate) fn search(start: World) -> Verdict {
    let mut known: HashMap<World, usize> = HashMap::from([(start.clone(), 0)]);
    let (mut depths, mut before, mut ends) = (vec![0], vec![Vec::new()], Vec::new());
    let mut open = VecDeque::from([start]);
    let mut steps = 0;
    while let Some(world) = open.pop_front() {
        let at = known[&world];
        if let Some(why) = world.broken() {
            return Verdict::Unsafe { steps: depths[at], why };
        }
        if world.is_finished() {
            ends.push(at);
        }
        for next in world.successors() {
            steps += 1;
            let place = *known.entry(next.clone()).or_insert_with(|| {
                depths.push(depths[at] + 1);
                before.push(Vec::new());
                open.push_back(next);
                depths.len() - 1
            });
            before[place].push(at);
        }
    }
    let mut can_finish = vec![false; depths.len()];
    while let Some(at) = ends.pop() {
        if !std::mem::replace(&mut can_finish[at], true) {
            ends.extend(&before[at]);
        }
    }
    let stuck = known.iter().filter(|(_, at)| !can_finish[**at]).min_by_key(|(_, at)| depths[**at]);
    match stuck {
        Some((world, at)) => Verdict::Stuck { steps: depths[*at], world: format!("{world:?}") },
        None => Verdict::Sound { states: depths.len(), steps },
    }
}

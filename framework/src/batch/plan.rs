//! Who is handled with whom, and in which order. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

/// The ordering key of a message: aggregate and id.
pub(super) type Key = (String, String);

/// What is still to be done, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// In one unit of work. `again`: these were good the last time, so a second failure ends the trying.
    Together { members: Vec<usize>, again: bool },
    /// In a unit of work of its own.
    Alone(usize),
}

/// What is known about a message before anything was opened.
pub(super) struct Candidate<'a> {
    pub(super) member: usize,
    pub(super) key: Option<&'a Key>,
    /// It cannot share a unit of work.
    pub(super) alone: bool,
    /// The name of its batch handler's message, if it has one.
    pub(super) gathers: Option<&'a str>,
}

/// Splits into those that share a unit of work and those that are handled alone after it. Who is alone takes the later ones
/// of its key along: they must not be done before it.
pub(super) fn divide(candidates: &[Candidate<'_>]) -> (Vec<usize>, Vec<usize>) {
    let mut behind = HashSet::new();
    candidates.iter().map(|candidate| (candidate.member, leaves(candidate, &mut behind))).fold(
        (Vec::new(), Vec::new()),
        |(mut together, mut alone), (member, leaves)| {
            if leaves {
                alone.push(member)
            } else {
                together.push(member)
            }
            (together, alone)
        },
    )
}

fn leaves<'a>(candidate: &Candidate<'a>, behind: &mut HashSet<&'a Key>) -> bool {
    let leaves = candidate.alone || candidate.key.is_some_and(|key| behind.contains(key));
    if leaves {
        behind.extend(candidate.key);
    }
    leaves
}

/// The calls in their order: each is one message, or those of one batch handler. A message joins an earlier call only when no
/// message of its key was planned since.
pub(super) fn calls(candidates: &[Candidate<'_>]) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut open: HashMap<&str, usize> = HashMap::new();
    let mut last_of_key: HashMap<&Key, usize> = HashMap::new();
    for candidate in candidates {
        let joined = candidate.gathers.and_then(|name| open.get(name).copied()).filter(|call| {
            candidate.key.and_then(|key| last_of_key.get(key)).is_none_or(|last| last <= call)
        });
        let call = joined.unwrap_or_else(|| {
            calls.push(Vec::new());
            let call = calls.len() - 1;
            open.extend(candidate.gathers.map(|name| (name, call)));
            call
        });
        calls[call].push(candidate.member);
        last_of_key.extend(candidate.key.map(|key| (key, call)));
    }
    calls
}

/// What follows a failed unit: what came before the culprits again together, each culprit alone, what came after them
/// together. When it had been tried again, everything alone.
pub(super) fn after_failure(order: &[usize], culprits: &[usize], again: bool) -> VecDeque<Work> {
    let mut work = VecDeque::new();
    if again || culprits.is_empty() {
        work.extend(order.iter().map(|member| Work::Alone(*member)));
        return work;
    }
    let mut together = Vec::new();
    let mut again = true;
    for member in order {
        if culprits.contains(member) {
            work.extend(as_work(std::mem::take(&mut together), again));
            work.push_back(Work::Alone(*member));
            again = false;
        } else {
            together.push(*member);
        }
    }
    work.extend(as_work(together, false));
    work
}

/// Nobody needs a shared unit of work for one message.
pub(super) fn as_work(members: Vec<usize>, again: bool) -> Option<Work> {
    match members.as_slice() {
        [] => None,
        [member] => Some(Work::Alone(*member)),
        _ => Some(Work::Together { members, again }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> [Key; 3] {
        ["a", "b", "c"].map(|id| ("order".to_owned(), id.to_owned()))
    }

    fn candidate<'a>(member: usize, key: Option<&'a Key>, gathers: Option<&'a str>) -> Candidate<'a> {
        Candidate { member, key, alone: false, gathers }
    }

    #[test]
    fn who_leaves_takes_the_later_ones_of_its_key_along() {
        let [a, b, _] = keys();
        let alone = |candidate| Candidate { alone: true, ..candidate };
        let all = [
            candidate(0, Some(&a), None),
            alone(candidate(1, Some(&a), None)),
            candidate(2, Some(&b), None),
            candidate(3, Some(&a), None),
            alone(candidate(4, None, None)),
            candidate(5, None, None),
        ];
        assert_eq!(divide(&all), (vec![0, 2, 5], vec![1, 3, 4]));
    }

    #[test]
    fn messages_join_an_earlier_call_unless_their_key_came_in_between() {
        let [a, b, c] = keys();
        let check = |all: &[(Option<&Key>, Option<&str>)], expected: &[&[usize]]| {
            let all: Vec<_> =
                all.iter().enumerate().map(|(at, (key, name))| candidate(at, *key, *name)).collect();
            assert_eq!(calls(&all), expected);
        };
        let (x, y, single) = (Some("x"), Some("y"), None);
        check(&[(Some(&a), single), (Some(&a), single)], &[&[0], &[1]]);
        check(&[(Some(&a), x), (Some(&b), x), (Some(&a), x)], &[&[0, 1, 2]]);
        check(&[(Some(&a), x), (Some(&b), single), (Some(&c), x)], &[&[0, 2], &[1]]);
        check(&[(Some(&a), x), (Some(&b), single), (Some(&b), x)], &[&[0], &[1], &[2]]);
        check(&[(Some(&a), x), (Some(&b), y), (Some(&b), x), (Some(&c), y)], &[&[0], &[1, 3], &[2]]);
        check(&[(None, x), (None, single), (None, x)], &[&[0, 2], &[1]]);
    }

    #[test]
    fn a_failure_splits_the_batch_around_its_culprits() {
        let together = |members: &[usize], again| Work::Together { members: members.to_vec(), again };
        let check = |culprits: &[usize], again, expected: Vec<Work>| {
            assert_eq!(after_failure(&[0, 1, 2, 3, 4], culprits, again), expected, "{culprits:?}");
        };
        check(&[2], false, vec![together(&[0, 1], true), Work::Alone(2), together(&[3, 4], false)]);
        check(&[0], false, vec![Work::Alone(0), together(&[1, 2, 3, 4], false)]);
        check(&[1], false, vec![Work::Alone(0), Work::Alone(1), together(&[2, 3, 4], false)]);
        check(&[2, 4], false, vec![together(&[0, 1], true), Work::Alone(2), Work::Alone(3), Work::Alone(4)]);
        check(&[2], true, (0..5).map(Work::Alone).collect());
        check(&[], false, (0..5).map(Work::Alone).collect());
    }
}

//! Handles a batch: what can be together first, then what has to be alone, in the order of arrival.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use tokio::sync::mpsc;

use super::{
    member::{End, Member},
    plan::{Candidate, Key, Work, as_work, divide},
    seat::Event,
};
use crate::{
    bus::BusCore, incoming::Incoming, pipeline::IncomingContext, store::backend::IdempotencyKey,
    transport::Delivery,
};

/// Handles deliveries that were received together, and settles each. What became of each, in their order.
///
/// Dropping the future rolls everything back and leaves what was not settled to come again.
pub(crate) async fn run(core: &Arc<BusCore>, deliveries: Vec<Delivery>) -> Vec<End> {
    let shares = core.settings.batch.is_some() && deliveries.len() > 1;
    if !shares {
        let mut results = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            results.push(alone(core, delivery).await);
        }
        return results;
    }
    let (mut members, mut places) = (Vec::new(), Vec::new());
    for delivery in deliveries {
        places.push(match Member::read(core, delivery) {
            Ok(member) => {
                members.push(member);
                None
            }
            Err(unreadable) => {
                let (delivery, cause) = *unreadable;
                core.bury_unreadable(delivery, &cause).await;
                Some(End::unreadable(cause))
            }
        });
    }
    let (events, heard) = mpsc::channel(1);
    let mut runner = Runner {
        core: Arc::clone(core),
        members,
        work: VecDeque::new(),
        events,
        heard,
        gone_back: HashSet::new(),
    };
    runner.work().await;
    let mut ends = runner.members.into_iter().map(Member::end);
    places.into_iter().filter_map(|unreadable| unreadable.or_else(|| ends.next())).collect()
}

/// Handles one delivery and settles it.
pub(crate) async fn alone(core: &Arc<BusCore>, mut delivery: Delivery) -> End {
    match Incoming::read(&mut delivery) {
        Ok(incoming) => {
            let mut cx = IncomingContext::new(Arc::clone(core), incoming, delivery.settlement);
            let result = core.incoming.run(&mut cx).await;
            End { result, says_nothing: cx.says_nothing }
        }
        Err(cause) => {
            core.bury_unreadable(delivery, &cause).await;
            End::unreadable(cause)
        }
    }
}

pub(super) struct Runner {
    pub(super) core: Arc<BusCore>,
    pub(super) members: Vec<Member>,
    pub(super) work: VecDeque<Work>,
    /// What the message says whose turn it is.
    pub(super) events: mpsc::Sender<Event>,
    pub(super) heard: mpsc::Receiver<Event>,
    /// Keys of which a message will come again.
    gone_back: HashSet<Key>,
}

impl Runner {
    async fn work(&mut self) {
        let (together, alone) = self.divide().await;
        self.work.extend(as_work(together, false));
        self.work.extend(alone.into_iter().map(Work::Alone));
        while let Some(work) = self.work.pop_front() {
            match work {
                Work::Together { members, again } => self.together(members, again).await,
                Work::Alone(member) => self.alone(member).await,
            }
        }
    }

    /// Who can share a unit of work. Counts an attempt at each that may be a repeat.
    async fn divide(&mut self) -> (Vec<usize>, Vec<usize>) {
        let untried = self.count_repeats().await;
        let mut seen = HashSet::new();
        let candidates: Vec<_> = (0..self.members.len())
            .map(|at| {
                let member = &self.members[at];
                let again = !seen.insert(member.id.message_id);
                let tried = member.repeat && !untried.contains(&at);
                let alone = again || tried || !member.shares;
                Candidate { member: at, key: member.key.as_ref(), alone, gathers: None }
            })
            .collect();
        let (together, alone) = divide(&candidates);
        untried.into_iter().for_each(|at| self.members[at].counted = true);
        self.take_back(&alone).await;
        (together, alone)
    }

    /// Those of the possible repeats at which no attempt is on record; from now on there is one.
    async fn count_repeats(&mut self) -> HashSet<usize> {
        let mut seen = HashSet::new();
        let fresh = |at: &usize| seen.insert(self.members[*at].id.message_id);
        let repeats: Vec<_> =
            (0..self.members.len()).filter(fresh).filter(|at| self.members[*at].repeat).collect();
        let Some(batches) = self.core.batches().filter(|_| !repeats.is_empty()) else {
            return HashSet::new();
        };
        match batches.count_first(&self.ids(&repeats)).await {
            Ok(counted) => {
                repeats.into_iter().zip(counted).filter(|(_, counted)| *counted).map(|(at, _)| at).collect()
            }
            Err(error) => {
                tracing::warn!(bus = self.core.name, %error, "counting the attempts of a batch: its repeats are handled alone");
                HashSet::new()
            }
        }
    }

    /// The batch was no attempt: who is handled alone is counted there.
    pub(super) async fn take_back(&mut self, members: &[usize]) {
        let counted: Vec<_> = members.iter().copied().filter(|at| self.members[*at].counted).collect();
        let Some(batches) = self.core.batches().filter(|_| !counted.is_empty()) else { return };
        if let Err(error) = batches.take_back(&self.ids(&counted)).await {
            // They have one attempt less.
            tracing::error!(bus = self.core.name, %error, "taking the attempts of a batch back");
        }
        counted.into_iter().for_each(|at| self.members[at].counted = false);
    }

    pub(super) fn ids(&self, members: &[usize]) -> Vec<IdempotencyKey> {
        members.iter().map(|at| self.members[*at].id.clone()).collect()
    }

    async fn alone(&mut self, at: usize) {
        self.take_back(&[at]).await;
        if self.is_held_back(at) {
            self.members[at].hold_back().await;
        } else {
            self.members[at].alone().await;
        }
        self.note(at);
    }

    /// Whether an earlier message of the key comes again, and the transport would not have delivered this one before it.
    pub(super) fn is_held_back(&self, at: usize) -> bool {
        let key = self.members[at].key.as_ref();
        key.is_some_and(|key| self.gone_back.contains(key))
    }

    /// Remembers the key of a message that comes again.
    pub(super) fn note(&mut self, at: usize) {
        let member = &self.members[at];
        if self.core.transport.promises().orders_keys && !member.is_acknowledged() {
            self.gone_back.extend(member.key.clone());
        }
    }
}

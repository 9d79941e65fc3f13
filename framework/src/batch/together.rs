//! One try at handling messages in one unit of work.

use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt as _, future::join_all};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use super::{
    plan::{Candidate, Work, after_failure, as_work, calls, divide},
    runner::Runner,
    seat::{Event, Parked, Prepared, Seat, Verdict},
};
use crate::{
    completion,
    context::{Context, UnitSlot},
    error::{Error, Result, panic_text},
    store::{backend::Recorded, batch::forgotten, statement::Writes},
    transaction::Stage,
    unit_of_work::{BegunBatch, CommitError, Unit},
};

/// Why a try ended.
enum Failed {
    /// These are the cause.
    Members(Vec<usize>),
    /// No single message is.
    All(Error),
    /// Nobody knows whether it committed.
    Unknown(Error),
}

type Done = (usize, Prepared);

impl Runner {
    /// Handles messages in one unit of work; what that does not bring to an end is put back in front of the work.
    pub(super) async fn together(&mut self, members: Vec<usize>, again: bool) {
        let members = self.hold_back(members).await;
        let calls = calls(&self.candidates(&members));
        let order: Vec<_> = calls.iter().flatten().copied().collect();
        let (mut unit, recorded) = match self.begin(&order).await {
            Ok(begun) => begun,
            Err(error) => {
                tracing::warn!(bus = self.core.name, %error, "a batch cannot begin");
                return self.start_over(&order, &[], again).await;
            }
        };
        let those =
            |what| order.iter().zip(&recorded).filter(move |(_, found)| **found == what).map(|(at, _)| *at);
        let in_progress: Vec<_> = those(Recorded::InProgress).collect();
        if !in_progress.is_empty() {
            roll_back(unit).await;
            return self.without(&order, &in_progress).await;
        }
        let duplicates: HashSet<_> = those(Recorded::Duplicate).collect();
        let (mut done, mut called) = (Vec::with_capacity(order.len()), Ok(()));
        for call in calls {
            called = self.call(&call, &duplicates, &mut unit, &mut done).await;
            if called.is_err() {
                break;
            }
        }
        let ended = match called {
            Err(failed) if self.core.batches().is_some() => Err(failed),
            // Without a unit of work those that are done are done.
            called => self.commit(done, &mut unit).await.and(called),
        };
        let Err(failed) = ended else { return };
        roll_back(unit).await;
        let left: Vec<_> = order.into_iter().filter(|at| !self.members[*at].has_ended()).collect();
        match failed {
            Failed::Members(culprits) => self.start_over(&left, &culprits, again).await,
            Failed::All(error) => {
                tracing::warn!(bus = self.core.name, %error, "a batch did not commit: its messages are handled alone");
                self.start_over(&left, &[], again).await;
            }
            Failed::Unknown(error) => {
                self.take_back(&left).await;
                let said = error.context("nobody knows whether the batch committed").to_string();
                self.end(&left, || Verdict::Unknown(said.clone())).await;
            }
        }
    }

    /// Gives back what may not be handled before an earlier message of its key; the others.
    async fn hold_back(&mut self, members: Vec<usize>) -> Vec<usize> {
        let (held_back, others): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|at| self.is_held_back(*at));
        self.take_back(&held_back).await;
        for at in held_back {
            self.members[at].hold_back().await;
        }
        others
    }

    fn candidates<'a>(&'a self, members: &[usize]) -> Vec<Candidate<'a>> {
        let candidate = |at: &usize| {
            let member = &self.members[*at];
            Candidate {
                member: *at,
                key: member.key.as_ref(),
                alone: false,
                gathers: member.gathers.as_deref(),
            }
        };
        members.iter().map(candidate).collect()
    }

    async fn begin(&mut self, order: &[usize]) -> Result<(Option<Box<dyn Unit>>, Vec<Recorded>)> {
        let Some(batches) = self.core.batches() else { return Ok((None, Vec::new())) };
        let keys = if self.core.idempotency.is_some() { self.ids(order) } else { Vec::new() };
        let BegunBatch { unit, recorded } = batches.begin(&keys).await?;
        Ok((Some(unit), recorded))
    }

    /// One message, or the messages of one call to a batch handler. Afterwards every message that began waits for its verdict.
    async fn call(
        &mut self,
        call: &[usize],
        duplicates: &HashSet<usize>,
        unit: &mut Option<Box<dyn Unit>>,
        done: &mut Vec<Done>,
    ) -> Result<(), Failed> {
        let slot = Arc::new(AsyncMutex::new(unit.take()));
        let mut round = Round::default();
        for at in call {
            let duplicate = duplicates.contains(at);
            self.members[*at].sit(Seat { duplicate, slot: Arc::clone(&slot), events: self.events.clone() });
            self.hear(*at, &mut round, done).await;
            if !round.failed.is_empty() {
                break;
            }
        }
        while round.failed.is_empty() && !round.parked.is_empty() {
            let parked = std::mem::take(&mut round.parked);
            let members: Vec<_> = parked.iter().map(|(at, _)| *at).collect();
            match gathered(parked).await {
                Ok(answers) => {
                    // Nobody waits for an answer only when the pipeline has ended.
                    answers.into_iter().for_each(|answer| drop(answer.send(Ok(()))));
                    for at in members {
                        self.hear(at, &mut round, done).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(bus = self.core.name, %error, "a batch handler failed");
                    round.failed = members;
                }
            }
        }
        round.parked.clear();
        for at in call {
            while self.members[*at].is_on_its_way() {
                if let Some(Event::Arrived(_, verdict)) = self.members[*at].event(&mut self.heard).await {
                    self.members[*at].waits_for(verdict);
                }
            }
        }
        self.retake(call, &slot, unit, round.failed).await
    }

    /// The next thing that a message has to say.
    async fn hear(&mut self, at: usize, round: &mut Round, done: &mut Vec<Done>) {
        match self.members[at].event(&mut self.heard).await {
            Some(Event::Parked(parked)) => round.parked.push((at, parked)),
            Some(Event::Arrived(prepared, verdict)) => {
                self.members[at].waits_for(verdict);
                match prepared {
                    Ok(prepared) => done.push((at, prepared)),
                    Err(error) => {
                        tracing::debug!(bus = self.core.name, %error, "a message of a batch failed");
                        round.failed.push(at);
                    }
                }
            }
            // A step ended the pipeline before it reached the unit of work, which has the message's record.
            Some(Event::Undone(_)) | None => round.failed.push(at),
        }
    }

    /// Takes the unit of work away from the handlers that have returned.
    async fn retake(
        &mut self,
        call: &[usize],
        slot: &Arc<AsyncMutex<UnitSlot>>,
        unit: &mut Option<Box<dyn Unit>>,
        mut failed: Vec<usize>,
    ) -> Result<(), Failed> {
        let doomed = match completion::retake(slot).await {
            Ok(taken) => {
                *unit = taken;
                unit.as_ref().and_then(|unit| unit.doomed())
            }
            Err(outlived) => Some(outlived),
        };
        if failed.is_empty()
            && let Some(error) = doomed
        {
            tracing::debug!(bus = self.core.name, %error, "a message of a batch failed");
            failed.extend_from_slice(call);
        }
        if failed.is_empty() { Ok(()) } else { Err(Failed::Members(failed)) }
    }

    /// Commits what the messages did, and takes them to their ends.
    async fn commit(&mut self, done: Vec<Done>, unit: &mut Option<Box<dyn Unit>>) -> Result<(), Failed> {
        let members: Vec<_> = done.iter().map(|(at, _)| *at).collect();
        let (mut rows, mut statements, mut contexts) = (Vec::new(), Vec::new(), Vec::new());
        let mut deferred = Vec::new();
        for (at, mut prepared) in done {
            rows.append(&mut prepared.rows);
            statements.append(&mut prepared.statements);
            deferred.push(prepared.deferred);
            contexts.push((at, prepared.context));
        }
        let counted: Vec<_> = members.iter().copied().filter(|at| self.members[*at].counted).collect();
        if !counted.is_empty() {
            statements.push(forgotten(&self.ids(&counted)));
        }
        let (outbox, leaving) =
            if self.core.outbox.is_some() { (rows, Vec::new()) } else { (Vec::new(), rows) };
        let sends = !outbox.is_empty();
        let writes = Writes { outbox, statements };
        match unit.as_mut() {
            Some(unit) if !writes.is_empty() => unit.stage(writes).map_err(Failed::All)?,
            // Alone, each finds out that there is nothing to write to.
            None if !writes.is_empty() => return Err(Failed::Members(members)),
            _ => {}
        }
        for (at, context) in &contexts {
            if let Err(error) = context.transaction().run(Stage::Commit).await {
                tracing::debug!(bus = self.core.name, %error, "a message of a batch failed");
                return Err(Failed::Members(vec![*at]));
            }
        }
        commit_unit(unit, &contexts).await?;
        if let Some(schedule) = &self.core.schedule {
            deferred.into_iter().for_each(|deferred| schedule.committed(deferred));
        }
        let sent = self.core.send_all(&leaving).await.map_err(|error| error.to_string());
        if sends {
            self.core.ring();
        }
        self.end(&members, || Verdict::Committed(sent.clone())).await;
        Ok(())
    }

    /// Tells messages what became of them, and takes them to their ends, beside one another.
    async fn end(&mut self, members: &[usize], verdict: impl Fn() -> Verdict) {
        let all: HashSet<_> = members.iter().copied().collect();
        let ending = self.members.iter_mut().enumerate().filter(|(at, _)| all.contains(at));
        join_all(ending.map(|(_, member)| {
            member.tell(verdict());
            member.finish()
        }))
        .await;
        members.iter().for_each(|at| self.note(*at));
    }

    /// The unit was rolled back: what is its own each message undoes now, and what is tried next.
    async fn start_over(&mut self, order: &[usize], culprits: &[usize], again: bool) {
        for at in order {
            self.members[*at].undo(&mut self.heard).await;
        }
        let work = after_failure(order, culprits, again);
        let alone = |work: &Work| if let Work::Alone(at) = work { Some(*at) } else { None };
        self.take_back(&work.iter().filter_map(alone).collect::<Vec<_>>()).await;
        work.into_iter().rev().for_each(|work| self.work.push_front(work));
    }

    /// Others handle some of the messages right now: the rest goes first.
    async fn without(&mut self, order: &[usize], in_progress: &[usize]) {
        let mut candidates = self.candidates(order);
        candidates.iter_mut().for_each(|candidate| candidate.alone = in_progress.contains(&candidate.member));
        let (together, alone) = divide(&candidates);
        self.take_back(&alone).await;
        alone.into_iter().rev().for_each(|at| self.work.push_front(Work::Alone(at)));
        if let Some(work) = as_work(together, false) {
            self.work.push_front(work);
        }
    }
}

/// What the messages of one call have said so far.
#[derive(Default)]
struct Round {
    parked: Vec<(usize, Parked)>,
    failed: Vec<usize>,
}

/// Calls a batch handler for all that are parked; who waits for its answer.
async fn gathered(parked: Vec<(usize, Parked)>) -> Result<Vec<oneshot::Sender<Result<()>>>> {
    let (mut items, mut answers, mut call) = (Vec::new(), Vec::new(), None);
    for (_, waiting) in parked {
        items.push(waiting.item);
        answers.push(waiting.answer);
        call.get_or_insert(waiting.call);
    }
    let Some(call) = call else { return Ok(answers) };
    let called = AssertUnwindSafe(async { call(items).await }).catch_unwind().await;
    called.unwrap_or_else(|panic| {
        Err(Error::new(format!("the handler panicked: {}", panic_text(panic.as_ref()))))
    })?;
    Ok(answers)
}

/// From here on no context rolls back, unless it is known that the commit failed.
async fn commit_unit(unit: &mut Option<Box<dyn Unit>>, contexts: &[(usize, Context)]) -> Result<(), Failed> {
    let committing = |yes| contexts.iter().for_each(|(_, context)| context.transaction().committing(yes));
    committing(true);
    let Some(open) = unit else { return Ok(()) };
    match open.commit().await {
        Ok(()) => {}
        Err(CommitError::Failed(error)) => {
            committing(false);
            return Err(Failed::All(error));
        }
        Err(CommitError::Unknown(error)) => {
            close(unit.take()).await;
            return Err(Failed::Unknown(error));
        }
    }
    close(unit.take()).await;
    Ok(())
}

async fn roll_back(mut unit: Option<Box<dyn Unit>>) {
    if let Some(open) = &mut unit
        && let Err(error) = open.rollback().await
    {
        tracing::warn!(%error, "rolling a batch back");
    }
    close(unit).await;
}

async fn close(unit: Option<Box<dyn Unit>>) {
    if let Some(mut unit) = unit
        && let Err(error) = unit.close().await
    {
        tracing::warn!(%error, "closing the unit of work of a batch");
    }
}

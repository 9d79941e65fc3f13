//! One transaction after the other: prepare, commit and roll back, once, again and out of order.

use super::{
    Report, Subject,
    bench::{Begun, Bench, must, says},
};
use crate::distributed::{
    Ack, BranchId, CoordinatorId, Decision, Heuristic, RmError, TransactionParticipant, Vote,
};

pub(super) async fn cases<S: Subject>(bench: &Bench<S>, report: &mut Report) {
    report.case("it is healthy", bench, healthy(bench)).await;
    report.case("it commits what was prepared", bench, commits(bench)).await;
    report.case("it rolls back what was prepared", bench, rolls_back(bench)).await;
    report.case("prepare twice", bench, prepare_twice(bench)).await;
    report.case("rollback before prepare", bench, rollback_before_prepare(bench)).await;
    report.case("rollback of what never began", bench, rollback_of_nothing(bench)).await;
    report.case("a failure before prepare", bench, failed_work(bench)).await;
    report.case("no work at all", bench, no_work(bench)).await;
    report.case("an end of the other kind is told", bench, heuristics(bench)).await;
    report.case("names at their limits", bench, longest_names(bench)).await;
    report.case("forget", bench, forget(bench)).await;
}

/// Whether an answer to prepare leaves nothing that could commit.
pub(super) fn refused(vote: &Result<Vote, RmError>) -> bool {
    matches!(vote, Ok(Vote::No { .. }) | Err(_))
}

async fn healthy<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let health = bench.resource().health().await;
    must(health.healthy, || format!("its database is not healthy: {}", health.detail))?;
    let begun = bench.prepared().await?;
    let pressure = bench.resource().pressure().await;
    must(pressure.is_ok(), || format!("asked how many are prepared, it said {pressure:?}"))?;
    says(bench.told(&begun, Decision::Abort).await, Ack::Done, "rollback")
}

async fn commits<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let begun = bench.worked().await?;
    bench.happened(begun.key, 0).await.map_err(|error| format!("before prepare: {error}"))?;
    let vote = begun.it.prepare(&begun.branch).await;
    must(vote == Ok(Vote::Prepared), || format!("prepare said {vote:?}"))?;
    bench.happened(begun.key, 0).await.map_err(|error| format!("before the commit: {error}"))?;
    let listed = bench.listed(bench.coordinator).await?;
    must(listed == [begun.branch], || format!("prepared is {}, listed are {listed:?}", begun.branch))?;
    let reached = begun.it.pre_commit(&begun.branch).await;
    must(reached.is_ok(), || format!("pre-commit said {reached:?}"))?;
    for when in ["the first commit", "the second commit"] {
        says(bench.told(&begun, Decision::Commit).await, Ack::Done, when)?;
        bench.happened(begun.key, 1).await.map_err(|error| format!("after {when}: {error}"))?;
        bench.nothing_is_left().await?;
    }
    Ok(())
}

async fn rolls_back<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let begun = bench.prepared().await?;
    for when in ["the first rollback", "the second rollback"] {
        says(bench.told(&begun, Decision::Abort).await, Ack::Done, when)?;
        bench.happened(begun.key, 0).await.map_err(|error| format!("after {when}: {error}"))?;
        bench.nothing_is_left().await?;
    }
    let vote = begun.it.prepare(&begun.branch).await;
    must(refused(&vote), || format!("it was rolled back, and then prepare said {vote:?}"))
}

async fn prepare_twice<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let begun = bench.prepared().await?;
    let again = begun.it.prepare(&begun.branch).await;
    // A no would be the last word, and the branch would stay prepared for ever.
    must(!matches!(again, Ok(Vote::No { .. } | Vote::ReadOnly)), || {
        format!("it has prepared, and then prepare said {again:?}")
    })?;
    let listed = bench.listed(bench.coordinator).await?;
    must(listed == [begun.branch], || format!("prepared is {}, listed are {listed:?}", begun.branch))?;
    says(bench.told(&begun, Decision::Commit).await, Ack::Done, "commit")?;
    bench.happened(begun.key, 1).await
}

async fn rollback_before_prepare<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let begun = bench.worked().await?;
    says(bench.told(&begun, Decision::Abort).await, Ack::Done, "rollback")?;
    let vote = begun.it.prepare(&begun.branch).await;
    must(refused(&vote), || format!("it was rolled back, and then prepare said {vote:?}"))?;
    says(bench.told(&begun, Decision::Abort).await, Ack::Done, "the second rollback")?;
    bench.happened(begun.key, 0).await
}

async fn rollback_of_nothing<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let (branch, it) = (bench.branch(), bench.subject.participant());
    let rolled_back = it.rollback(&branch).await;
    must(rolled_back == Ok(Ack::Done), || format!("a participant that never began said {rolled_back:?}"))?;
    let branch = bench.branch();
    for when in ["rollback by name", "the second rollback by name"] {
        says(bench.finished(&branch, Decision::Abort).await, Ack::Done, when)?;
    }
    Ok(())
}

async fn failed_work<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let begun = bench.worked().await?;
    // That the caller ignores it is the case.
    drop(bench.subject.fail(&begun.it).await);
    let vote = begun.it.prepare(&begun.branch).await;
    must(refused(&vote), || format!("something had failed, and prepare said {vote:?}"))?;
    if matches!(vote, Ok(Vote::No { .. })) {
        // A no is the last word: nobody rolls back what is not there.
        bench.nothing_is_left().await?;
    }
    says(bench.told(&begun, Decision::Abort).await, Ack::Done, "rollback")?;
    bench.happened(begun.key, 0).await
}

async fn no_work<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    for decision in [Decision::Commit, Decision::Abort] {
        let (branch, it) = (bench.branch(), bench.subject.participant());
        it.begin(&branch).await.map_err(|error| format!("begin: {error}"))?;
        match it.prepare(&branch).await {
            Ok(Vote::ReadOnly) => {}
            Ok(Vote::Prepared) => {
                says(
                    bench.finished_by(&it, &branch, decision).await,
                    Ack::Done,
                    "the end of an empty branch",
                )?;
            }
            other => return Err(format!("nothing was done, and prepare said {other:?}")),
        }
        bench.nothing_is_left().await?;
    }
    Ok(())
}

async fn heuristics<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    for (first, then, told) in [
        (Decision::Commit, Decision::Abort, Heuristic::Committed),
        (Decision::Abort, Decision::Commit, Heuristic::RolledBack),
    ] {
        let begun = bench.prepared().await?;
        says(bench.told(&begun, first).await, Ack::Done, "the first end")?;
        let told = Ack::Heuristic(told);
        says(bench.told(&begun, then).await, told, "the opposite, by the participant")?;
        says(bench.finished(&begun.branch, then).await, told, "the opposite, by name")?;
        bench.happened(begun.key, u64::from(first == Decision::Commit)).await?;
    }
    Ok(())
}

async fn longest_names<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let coordinator = CoordinatorId { epoch: u32::MAX, ..bench.coordinator };
    for decision in [Decision::Commit, Decision::Abort] {
        let Begun { branch, key, it } = bench.prepared_in(bench.branch_of(coordinator, u16::MAX)).await?;
        let listed = bench.listed(coordinator).await?;
        must(listed == [branch], || format!("prepared is {branch}, listed are {listed:?}"))?;
        drop(it);
        says(bench.finished(&branch, decision).await, Ack::Done, "its end by name")?;
        bench.happened(key, u64::from(decision == Decision::Commit)).await?;
    }
    Ok(())
}

async fn forget<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let begun = bench.prepared().await?;
    says(bench.told(&begun, Decision::Commit).await, Ack::Done, "commit")?;
    let never: BranchId = bench.branch();
    for branch in [begun.branch, begun.branch, never] {
        let forgotten = bench.resource().forget(&branch).await;
        must(forgotten.is_ok(), || format!("forget said {forgotten:?}"))?;
    }
    bench.happened(begun.key, 1).await
}

impl<S: Subject> Bench<S> {
    /// Tells a participant to end a branch.
    async fn finished_by(
        &self,
        it: &S::Participant,
        branch: &BranchId,
        decision: Decision,
    ) -> Result<Ack, String> {
        let ended = match decision {
            Decision::Commit => it.commit(branch).await,
            Decision::Abort => it.rollback(branch).await,
        };
        ended.map_err(|error| error.to_string())
    }
}

//! The cases of a last resource, which only commits, and can be asked afterwards whether it did.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Report, Subject,
    bench::{Bench, dropped_after, must, says},
};
use crate::distributed::{Ack, Decision, Heuristic, RmError, TransactionParticipant};

/// How long a database with one writer may let others wait while a branch is open.
const WRITER_WAIT: Duration = Duration::from_secs(2);

/// Commits are dropped after 1, 2, 3 .. so many polls: more than any of them takes.
const POLLS: u32 = 12;

pub(super) async fn cases<S: Subject>(bench: &Bench<S>, report: &mut Report) {
    report.case("it commits", bench, commits(bench)).await;
    report.case("it rolls back, and cannot commit afterwards", bench, rolls_back(bench)).await;
    report.case("a failure before the commit", bench, failed_work(bench)).await;
    report.case("commit after it was rolled back by another", bench, late_commit(bench)).await;
    report.case("a commit that nobody waited for", bench, dropped_commit(bench)).await;
    report.case("it is never prepared", bench, never_prepared(bench)).await;
    report.case("many transactions at once", bench, many(bench)).await;
}

const COMMITTED: Ack = Ack::Heuristic(Heuristic::Committed);

async fn commits<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let begun = bench.worked().await?;
    bench.happened(begun.key, 0).await.map_err(|error| format!("before the commit: {error}"))?;
    for when in ["the first commit", "the second commit"] {
        says(bench.told(&begun, Decision::Commit).await, Ack::Done, when)?;
        bench.happened(begun.key, 1).await.map_err(|error| format!("after {when}: {error}"))?;
    }
    says(bench.finished(&begun.branch, Decision::Commit).await, Ack::Done, "commit by name")?;
    says(bench.told(&begun, Decision::Abort).await, COMMITTED, "told to roll back")?;
    says(bench.finished(&begun.branch, Decision::Abort).await, COMMITTED, "told to roll back by name")?;
    for _ in 0..2 {
        let forgotten = bench.resource().forget(&begun.branch).await;
        must(forgotten.is_ok(), || format!("forget said {forgotten:?}"))?;
    }
    bench.happened(begun.key, 1).await
}

async fn rolls_back<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let begun = bench.worked().await?;
    for when in ["the first rollback", "the second rollback"] {
        says(bench.told(&begun, Decision::Abort).await, Ack::Done, when)?;
    }
    let late = begun.it.commit(&begun.branch).await;
    must(late != Ok(Ack::Done), || "it was rolled back, and then it committed".to_owned())?;
    says(bench.finished(&begun.branch, Decision::Abort).await, Ack::Done, "rollback by name")?;
    let never = bench.branch();
    says(bench.finished(&never, Decision::Abort).await, Ack::Done, "rollback of what never began")?;
    bench.happened(begun.key, 0).await
}

async fn failed_work<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let begun = bench.worked().await?;
    // That the caller ignores it is the case.
    drop(bench.subject.fail(&begun.it).await);
    let ended = begun.it.commit(&begun.branch).await;
    must(ended != Ok(Ack::Done), || "something had failed, and it committed".to_owned())?;
    says(bench.told(&begun, Decision::Abort).await, Ack::Done, "rollback")?;
    bench.happened(begun.key, 0).await
}

async fn late_commit<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let begun = bench.worked().await?;
    let resource = bench.resource();
    // Where there is one writer, recovery waits until the branch is gone; that is as good.
    let asked = tokio::time::timeout(WRITER_WAIT, resource.finish(&begun.branch, Decision::Abort)).await;
    match asked {
        Ok(Ok(ack)) => {
            must(ack == Ack::Done, || format!("told to roll back by name, it said {ack:?}"))?;
            let late = begun.it.commit(&begun.branch).await;
            must(late != Ok(Ack::Done), || {
                "it was rolled back by another, and then it committed".to_owned()
            })?;
        }
        Err(_) | Ok(Err(RmError::Retryable(_) | RmError::Unknown(_))) => {}
        Ok(Err(error)) => return Err(format!("told to roll back by name, it said {error:?}")),
    }
    says(bench.told(&begun, Decision::Abort).await, Ack::Done, "rollback")?;
    bench.happened(begun.key, 0).await
}

async fn dropped_commit<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    for polls in 1..=POLLS {
        let begun = bench.worked().await?;
        let answer = dropped_after(polls, begun.it.commit(&begun.branch)).await;
        let told = if polls % 2 == 0 {
            bench.told(&begun, Decision::Abort).await
        } else {
            // Nobody else knows the branch: its participant is gone.
            let branch = begun.branch;
            let key = begun.key;
            drop(begun.it);
            let told = bench.finished(&branch, Decision::Abort).await;
            says_what_is(bench, key, &told).await?;
            continue;
        };
        must(answer != Some(Ok(Ack::Done)) || told == Ok(COMMITTED), || {
            format!("it said that it committed, and then {told:?}")
        })?;
        says_what_is(bench, begun.key, &told).await?;
    }
    Ok(())
}

/// That the answer agrees with what is there.
async fn says_what_is<S: Subject>(
    bench: &Bench<S>,
    key: u64,
    told: &Result<Ack, String>,
) -> Result<(), String> {
    match told {
        Ok(Ack::Done) => bench.happened(key, 0).await,
        Ok(ack) if *ack == COMMITTED => bench.happened(key, 1).await,
        other => Err(format!("asked what became of it, it said {other:?}")),
    }
}

async fn never_prepared<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let begun = bench.worked().await?;
    let vote = begun.it.prepare(&begun.branch).await;
    must(super::phases::refused(&vote), || format!("asked to prepare, a last resource said {vote:?}"))?;
    bench.nothing_is_left().await?;
    says(bench.told(&begun, Decision::Abort).await, Ack::Done, "rollback")
}

async fn many<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let one = async |number: u64| {
        let begun = bench.worked().await?;
        let commits = !number.is_multiple_of(3);
        let decision = if commits { Decision::Commit } else { Decision::Abort };
        says(bench.told(&begun, decision).await, Ack::Done, "its end")?;
        bench.happened(begun.key, u64::from(commits)).await
    };
    let all = stream::iter(0..bench.transactions).map(one).buffer_unordered(bench.at_once);
    all.try_collect().await
}

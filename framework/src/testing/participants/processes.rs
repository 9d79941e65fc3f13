//! What becomes of a branch whose process is gone, or gave up waiting.

use super::{
    Report, Subject,
    bench::{Begun, Bench, dropped_after, must, says},
    phases::refused,
};
use crate::distributed::{Ack, Decision, TransactionParticipant, Vote};

/// Calls are dropped after 1, 2, 3 .. so many polls: more than any of them takes.
const POLLS: u32 = 12;

pub(super) async fn cases<S: Subject>(bench: &Bench<S>, report: &mut Report) {
    report.case("another process ends it", bench, ended_by_others(bench)).await;
    report.case("prepare after it was rolled back by another", bench, late_prepare(bench)).await;
    report.case("a prepare that nobody waited for", bench, dropped_prepare(bench)).await;
    report.case("a commit that nobody waited for", bench, dropped_end(bench, Decision::Commit)).await;
    report.case("a rollback that nobody waited for", bench, dropped_end(bench, Decision::Abort)).await;
    let sessions = "its sessions end between the phases";
    if bench.end_sessions.is_some() {
        report.case(sessions, bench, ended_sessions(bench)).await;
    } else {
        report.left_out.push((sessions, "the suite was not told how to end them"));
    }
}

async fn ended_by_others<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    for decision in [Decision::Commit, Decision::Abort] {
        let times = u64::from(decision == Decision::Commit);
        let Begun { branch, key, it } = bench.prepared().await?;
        drop(it);
        for when in ["the first end by name", "the second end by name"] {
            says(bench.finished(&branch, decision).await, Ack::Done, when)?;
            bench.happened(key, times).await?;
        }
        let Begun { branch, key, it } = bench.prepared().await?;
        drop(it);
        let fresh = Begun { branch, key, it: bench.subject.participant() };
        says(bench.told(&fresh, decision).await, Ack::Done, "a participant that has not begun it")?;
        bench.happened(key, times).await?;
        let begun = bench.prepared().await?;
        begun.it.leave().await;
        says(bench.finished(&begun.branch, decision).await, Ack::Done, "its end by name, after it was left")?;
        bench.happened(begun.key, times).await?;
    }
    Ok(())
}

async fn late_prepare<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let begun = bench.worked().await?;
    says(bench.finished(&begun.branch, Decision::Abort).await, Ack::Done, "rollback by name")?;
    let vote = begun.it.prepare(&begun.branch).await;
    must(refused(&vote), || format!("it was rolled back by another, and prepare said {vote:?}"))?;
    bench.nothing_is_left().await?;
    says(bench.told(&begun, Decision::Abort).await, Ack::Done, "rollback")?;
    bench.happened(begun.key, 0).await
}

async fn dropped_prepare<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    for polls in 1..=POLLS {
        let begun = bench.worked().await?;
        let vote = dropped_after(polls, begun.it.prepare(&begun.branch)).await;
        match vote {
            Some(Ok(Vote::Prepared)) => {}
            Some(vote) => return Err(format!("work was done, and prepare said {vote:?}")),
            None => match begun.it.prepare(&begun.branch).await {
                // It may be prepared, and nobody would ever ask for it again.
                Ok(Vote::ReadOnly) => return Err(format!("dropped after {polls} polls, it said read-only")),
                Ok(Vote::No { .. }) => bench.nothing_is_left().await?,
                Ok(Vote::Prepared) | Err(_) => {}
            },
        }
        says(bench.told(&begun, Decision::Abort).await, Ack::Done, "rollback")?;
        bench.happened(begun.key, 0).await?;
        bench.nothing_is_left().await.map_err(|error| format!("dropped after {polls} polls: {error}"))?;
    }
    Ok(())
}

async fn dropped_end<S: Subject>(bench: &Bench<S>, decision: Decision) -> Result<(), String> {
    for polls in 1..=POLLS {
        let begun = bench.prepared().await?;
        match decision {
            Decision::Commit => drop(dropped_after(polls, begun.it.commit(&begun.branch)).await),
            Decision::Abort => drop(dropped_after(polls, begun.it.rollback(&begun.branch)).await),
        }
        let ended = if polls % 2 == 0 {
            bench.told(&begun, decision).await
        } else {
            bench.finished(&begun.branch, decision).await
        };
        says(ended, Ack::Done, &format!("dropped after {polls} polls, and told again"))?;
        bench.happened(begun.key, u64::from(decision == Decision::Commit)).await?;
    }
    Ok(())
}

async fn ended_sessions<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let Some(end) = &bench.end_sessions else { return Ok(()) };
    let begun = bench.worked().await?;
    end().await.map_err(|error| format!("ending the sessions: {error}"))?;
    // Whatever it votes: a participant may need no session.
    let vote = begun.it.prepare(&begun.branch).await;
    must(vote != Ok(Vote::ReadOnly), || "work was done, and it says that it changed nothing".to_owned())?;
    if matches!(vote, Ok(Vote::No { .. })) {
        bench.nothing_is_left().await?;
    }
    says(bench.told(&begun, Decision::Abort).await, Ack::Done, "rollback")?;
    bench.happened(begun.key, 0).await?;
    for decision in [Decision::Commit, Decision::Abort] {
        let begun = bench.prepared().await?;
        end().await.map_err(|error| format!("ending the sessions: {error}"))?;
        says(bench.told(&begun, decision).await, Ack::Done, "its end after the sessions' end")?;
        bench.happened(begun.key, u64::from(decision == Decision::Commit)).await?;
    }
    Ok(())
}

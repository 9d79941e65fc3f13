//! Many transactions at once, and those of others.

use futures::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::{
    Report, Subject,
    bench::{Begun, Bench, must, says},
};
use crate::distributed::{Ack, CoordinatorId, Decision, TransactionParticipant, Vote};

pub(super) async fn cases<S: Subject>(bench: &Bench<S>, report: &mut Report) {
    report.case("it lists exactly the branches of a log", bench, lists(bench)).await;
    report.case("many transactions at once", bench, many(bench)).await;
}

async fn lists<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let ours = bench.coordinator;
    let other_log = CoordinatorId { id: Uuid::now_v7(), ..ours };
    // Its number begins with the number of ours.
    let other_epoch = CoordinatorId { epoch: 10, ..ours };
    let mut own = Vec::new();
    for ordinal in [0, 1, 7] {
        own.push(bench.prepared_in(bench.branch_of(ours, ordinal)).await?);
    }
    let first = bench.prepared_in(bench.branch_of(other_log, 0)).await?;
    let second = bench.prepared_in(bench.branch_of(other_epoch, 0)).await?;
    let mut expected: Vec<_> = own.iter().map(|begun| begun.branch).collect();
    expected.sort_by_key(|branch| (branch.gid, branch.ordinal));
    let listed = bench.listed(ours).await?;
    must(listed == expected, || format!("prepared are {expected:?}, listed are {listed:?}"))?;
    for Begun { branch, it, .. } in own {
        // A branch may belong to the session of who prepared it for as long as that lives.
        drop(it);
        says(bench.finished(&branch, Decision::Abort).await, Ack::Done, "rollback by name")?;
    }
    for Begun { branch, key, it } in [first, second] {
        let listed = bench.listed(branch.coordinator).await?;
        must(listed == [branch], || format!("of another log, {listed:?} is left"))?;
        drop(it);
        says(bench.finished(&branch, Decision::Commit).await, Ack::Done, "commit by name")?;
        bench.happened(key, 1).await?;
    }
    Ok(())
}

/// Every third is rolled back. A branch may say no, when its database has no room for so many.
async fn many<S: Subject>(bench: &Bench<S>) -> Result<(), String> {
    let one = async |number: u64| {
        let begun = bench.worked().await?;
        let vote = begun.it.prepare(&begun.branch).await;
        let commits = vote == Ok(Vote::Prepared) && !number.is_multiple_of(3);
        if !matches!(vote, Ok(Vote::No { .. })) {
            let decision = if commits { Decision::Commit } else { Decision::Abort };
            says(bench.told(&begun, decision).await, Ack::Done, "its end")?;
        }
        bench.happened(begun.key, u64::from(commits)).await?;
        Ok::<_, String>(u64::from(commits))
    };
    let all = stream::iter(0..bench.transactions).map(one).buffer_unordered(bench.at_once);
    let committed: u64 = all.try_fold(0, async |sum, one| Ok(sum + one)).await?;
    must(committed > 0, || "none of them could be prepared".to_owned())
}

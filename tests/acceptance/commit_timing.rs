//! design.md 4, commit timing: one table over databases, settings and everything that can go wrong.
//!
//! What is expected is in `commit_timing/design.rs`, which reads like the design and knows nothing of the code.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

#[path = "commit_timing/case.rs"]
mod case;
#[path = "commit_timing/design.rs"]
mod design;
#[path = "commit_timing/hand_written.rs"]
mod hand_written;
#[path = "commit_timing/journal.rs"]
mod journal;
#[path = "commit_timing/refused.rs"]
mod refused;
#[path = "commit_timing/two_buses.rs"]
mod two_buses;
#[path = "commit_timing/world.rs"]
mod world;

use std::time::Duration;

use case::Case;
use design::{Fault, Row, expected};
use world::Worlds;

/// Nothing in the table may take this long; what does hangs.
const BOUND: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_timing_is_as_the_design_says() {
    let worlds = Worlds::new().await;
    let mut wrong = Vec::new();
    let rows = Row::all();
    for row in &rows {
        wrong.extend(check(&worlds, *row).await.err());
    }
    assert!(wrong.is_empty(), "{} of {} rows\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// One row of the table: it does not build and says why, or everything that can be seen is as expected.
async fn check(worlds: &Worlds, row: Row) -> Result<(), String> {
    let world = worlds.of(&row);
    let case = Case::new(row, world.clone());
    let bus = match (case.bus(), row.builds()) {
        (Ok(bus), true) => bus,
        (Err(error), false) => return refused(&row, &error.to_string()),
        (Ok(_), false) => return Err(format!("{row:?} was built")),
        (Err(error), true) => return Err(format!("{row:?} was not built: {error}")),
    };
    let lost_before = world.faults_fired();
    let Ok(seen) = tokio::time::timeout(BOUND, case.deliver(&bus)).await else {
        return Err(format!("{row:?} was not handled within {BOUND:?}"));
    };
    let expected = expected(&row);
    let lost = world.faults_fired() - lost_before;
    if lost != usize::from(matches!(row.fault, Fault::AnswerLost { .. })) {
        return Err(format!("{row:?}: {lost} answers were lost"));
    }
    if seen != expected {
        let reported = case.reported();
        return Err(format!("{row:?}\n  expected\n    {expected:?}\n  seen\n    {seen:?}\n    {reported:?}"));
    }
    Ok(())
}

/// The error names what is wrong and what to change.
fn refused(row: &Row, said: &str) -> Result<(), String> {
    let parts = match (row.outbox, row.idempotency) {
        (true, true) => "an outbox and idempotency",
        (true, false) => "an outbox",
        _ => "idempotency",
    };
    let remedies = ["[bus.orders] commit_with_transaction = true", ".commit_with_transaction(true)"];
    let needed = ["error BRD012", parts, "commit_with_transaction is false (code)"];
    let missing: Vec<_> = needed.iter().chain(&remedies).filter(|part| !said.contains(**part)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("{row:?}: {missing:?} is not in {said}")) }
}

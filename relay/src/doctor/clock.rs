//! How far a database's clock is from this machine's. Nothing the relay does depends on it; people who read logs do, and so do
//! certificates and the times in message ids.

use std::time::{Duration, Instant};

use super::Report;

/// From where on it is worth telling.
const APART_MAX: Duration = Duration::from_secs(5);

/// Compares the database's clock, in milliseconds since 1970, with this machine's. What the question took counts for neither.
pub(crate) fn compare(theirs_ms: i64, asked: Instant, report: &mut Report) {
    let ours_ms = barid::clock::now().timestamp_millis();
    let took = asked.elapsed();
    let apart = Duration::from_millis(theirs_ms.abs_diff(ours_ms)).saturating_sub(took);
    if apart < APART_MAX {
        return report.ok("clock", "the clocks of the database and of this machine agree");
    }
    let which = if theirs_ms > ours_ms { "ahead of" } else { "behind" };
    report.warning(
        "clock",
        format!("the database's clock is {} s {which} this machine's", apart.as_secs()),
        "have both follow a time server; the relay goes by the database's",
    );
}

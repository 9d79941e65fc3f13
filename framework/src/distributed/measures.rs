//! Every metric of distributed transactions, by name. They go to whatever recorder of the crate `metrics` the program has installed;
//! without one they cost next to nothing.

/// Counter: transactions begun, by `type`.
pub const STARTED: &str = "distributed_txn.started";
/// Counter: transactions that ended, by `type` and `success`.
pub const COMPLETED: &str = "distributed_txn.completed";
/// Counter: transactions that did not end as they should, by `type` and `error` (`aborted`, `in_doubt`, `heuristic`, `left`).
pub const FAILED: &str = "distributed_txn.failed";
/// Histogram, seconds: from the beginning to the end, by `type` and `success`.
pub const DURATION: &str = "distributed_txn.duration_seconds";
/// Histogram: how many branches a transaction had, by `type`.
pub const PARTICIPANTS: &str = "distributed_txn.participants";
/// Histogram, seconds: how long a participant took, by `participant_id`, `operation` (`prepare`, `commit`, `rollback`) and `success`.
pub const PARTICIPANT_DURATION: &str = "participant.operation.duration";
/// Histogram, seconds: how long a phase took, by `phase`.
pub const PHASE_DURATION: &str = "dtx_phase_duration_seconds";
/// Histogram, seconds: for how long branches were prepared before it was decided how they end.
pub const PREPARED_DURATION: &str = "dtx_prepared_duration_seconds";
/// Counter: transactions that committed while a branch had not confirmed it.
pub const PARTIAL_COMMITS: &str = "dtx_partial_commits_total";
/// Counter: outcomes that nobody decided, by `kind`.
pub const HEURISTICS: &str = "dtx_heuristic_total";
/// Counter: what recovery did, by `action` (`commit`, `rollback`, `orphan`, `scan`, `clean_up`) and `result` (`done`, `left`,
/// `heuristic`, `failed`).
pub const RECOVERY_ACTIONS: &str = "dtx_recovery_actions_total";
/// Counter: who was denied what, by `action`.
pub const DENIED: &str = "dtx_denied_total";
/// Gauge: transactions that are not over everywhere.
pub const OPEN: &str = "dtx_open";
/// Gauge: named transactions that are prepared and wait for their end.
pub const WAITING: &str = "dtx_waiting";
/// Gauge: transactions that recovery has taken and that are still not over.
pub const IN_DOUBT: &str = "dtx_in_doubt";
/// Gauge: transactions that a human has to look at.
pub const MANUAL: &str = "dtx_requires_manual_intervention";
/// Gauge, seconds: the age of the oldest transaction that is not over.
pub const OLDEST_OPEN: &str = "dtx_oldest_open_age_seconds";
/// Gauge, seconds: the age of the oldest prepared transaction of a database, whoever's it is, by `resource`. As long as there is one, the
/// database cannot clean up behind it.
pub const OLDEST_PREPARED: &str = "dtx_oldest_prepared_age_seconds";
/// Gauge: prepared transactions of a server, by `resource`.
pub const SLOTS_USED: &str = "dtx_prepared_slots_used";
/// Gauge: prepared transactions that the server has room for, by `resource`.
pub const SLOTS_MAX: &str = "dtx_prepared_slots_max";

/// All of them with what they are, for a recorder that wants to know.
pub fn describe() {
    use metrics::{
        Unit::{Count, Seconds},
        describe_counter, describe_gauge, describe_histogram,
    };
    describe_counter!(STARTED, Count, "Distributed transactions begun");
    describe_counter!(COMPLETED, Count, "Distributed transactions that ended");
    describe_counter!(FAILED, Count, "Distributed transactions that did not end as they should");
    describe_histogram!(DURATION, Seconds, "From the beginning of a distributed transaction to its end");
    describe_histogram!(PARTICIPANTS, Count, "Branches of a distributed transaction");
    describe_histogram!(PARTICIPANT_DURATION, Seconds, "How long a participant took");
    describe_histogram!(PHASE_DURATION, Seconds, "How long a phase took");
    describe_histogram!(PREPARED_DURATION, Seconds, "How long branches were prepared and undecided");
    describe_counter!(PARTIAL_COMMITS, Count, "Commits that a branch had not confirmed");
    describe_counter!(HEURISTICS, Count, "Outcomes that nobody decided");
    describe_counter!(RECOVERY_ACTIONS, Count, "What recovery did");
    describe_counter!(DENIED, Count, "What the access policy denied");
    describe_gauge!(OPEN, Count, "Distributed transactions that are not over everywhere");
    describe_gauge!(WAITING, Count, "Named transactions that wait for their end");
    describe_gauge!(IN_DOUBT, Count, "Distributed transactions that recovery could not end yet");
    describe_gauge!(MANUAL, Count, "Distributed transactions that need a human");
    describe_gauge!(OLDEST_OPEN, Seconds, "Age of the oldest distributed transaction that is not over");
    describe_gauge!(OLDEST_PREPARED, Seconds, "Age of the oldest prepared transaction of a database");
    describe_gauge!(SLOTS_USED, Count, "Prepared transactions of a server");
    describe_gauge!(SLOTS_MAX, Count, "Prepared transactions that a server has room for");
}

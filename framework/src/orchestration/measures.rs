//! Every metric of orchestrated sagas, by name. They go to whatever recorder of the crate `metrics` the program has installed.

/// Counter: sagas that are over, by `saga` and `outcome` (`completed`, `compensated`).
pub const ENDED: &str = "orchestration_ended_total";
/// Counter: attempts of steps, by `saga`, `step`, `what` (`action`, `compensation`, `settle`) and `answer` (`done`, `failed`,
/// `permanent`, `refused`, `busy`, `in_doubt`).
pub const ATTEMPTS: &str = "orchestration_attempts_total";
/// Histogram, seconds: how long an attempt of a step took, by `saga`, `step` and `what`.
pub const ATTEMPT_DURATION: &str = "orchestration_attempt_duration_seconds";
/// Counter: steps that were left to a human, by `saga` and `step`.
pub const STUCK: &str = "orchestration_stuck_total";
/// Gauge: sagas that this process carries out now.
pub const RUNNING: &str = "orchestration_running";

/// All of them with what they are, for a recorder that wants to know.
pub fn describe() {
    use metrics::{
        Unit::{Count, Seconds},
        describe_counter, describe_gauge, describe_histogram,
    };
    describe_counter!(ENDED, Count, "Orchestrated sagas that are over");
    describe_counter!(ATTEMPTS, Count, "Attempts of steps of orchestrated sagas");
    describe_histogram!(ATTEMPT_DURATION, Seconds, "How long an attempt of a step took");
    describe_counter!(STUCK, Count, "Steps of orchestrated sagas that were left to a human");
    describe_gauge!(RUNNING, Count, "Orchestrated sagas that this process carries out");
}

//! The only place that reads the wall clock.
//!
//! Leases, schedules and ages use the database's clock. The local clock stamps messages and measures durations.

use chrono::{DateTime, SecondsFormat, Utc};

/// Now, by the local clock.
#[must_use]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Now, RFC 3339 in UTC with milliseconds: the form that headers carry.
#[must_use]
pub fn now_text() -> String {
    now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

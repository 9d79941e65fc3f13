//! Places at which a test lets the process die.
//!
//! With the cargo feature `failpoints`, and never in a release build, `BARID_RELAY_ABORT_AT=mid_batch:3` aborts the process
//! when it comes to that place for the third time. Everywhere else [`reached`] is nothing.
//!
//! Two more places concern the application and not the relay: before and after the COMMIT of its unit of work. A handler
//! can register actions there, so they need nothing here.

/// The environment variable: `POINT:TIMES`.
pub const VARIABLE: &str = "BARID_RELAY_ABORT_AT";

/// A place between two steps of which a crash must lose neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Rows were read and are known; none of them was published.
    AfterClaim,
    /// A row is about to be handed to its sink.
    BeforePublish,
    /// A row was handed to its sink and has no answer.
    AfterPublishBeforeConfirm,
    /// A part of what may be published is.
    MidBatch,
    /// A row was confirmed and is still in the outbox.
    AfterConfirmBeforeMark,
    /// Rows were deleted. On SQLite before the COMMIT and after it in turn; elsewhere the DELETE is a transaction of its own,
    /// and nobody but the writer knows of it yet.
    AfterMarkBeforeCommit,
    /// The lease of the source is about to be renewed.
    LeaseRenew,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::AfterClaim,
        Self::BeforePublish,
        Self::AfterPublishBeforeConfirm,
        Self::MidBatch,
        Self::AfterConfirmBeforeMark,
        Self::AfterMarkBeforeCommit,
        Self::LeaseRenew,
    ];

    /// What the environment calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AfterClaim => "after_claim",
            Self::BeforePublish => "before_publish",
            Self::AfterPublishBeforeConfirm => "after_publish_before_confirm",
            Self::MidBatch => "mid_batch",
            Self::AfterConfirmBeforeMark => "after_confirm_before_mark",
            Self::AfterMarkBeforeCommit => "after_mark_before_commit",
            Self::LeaseRenew => "lease_renew",
        }
    }
}

/// The process is at this place.
#[cfg(not(all(feature = "failpoints", debug_assertions)))]
#[inline]
pub fn reached(_point: Point) {}

/// The process is at this place, and ends here when it was told to.
#[cfg(all(feature = "failpoints", debug_assertions))]
pub fn reached(point: Point) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    static ARMED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static TIMES: AtomicU64 = AtomicU64::new(0);
    let armed = ARMED.get_or_init(|| {
        let (name, times) = std::env::var(VARIABLE).ok()?.split_once(':').map(|(name, times)| {
            // What is no number is never reached, and the test that waits for the end says so.
            (name.to_owned(), times.parse().unwrap_or(u64::MAX))
        })?;
        Some((name, times))
    });
    if let Some((name, times)) = armed
        && name == point.name()
        && TIMES.fetch_add(1, Ordering::SeqCst) + 1 == *times
    {
        tracing::error!("failpoint {name} reached {times} times: aborting");
        std::process::abort();
    }
}

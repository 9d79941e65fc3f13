//! Who owns a source: one relay at a time, by a lease with an epoch.
//!
//! An outbox has one owner. It holds a lease in `relay_source`, which it renews after a third of its length; each change of
//! owner raises the epoch, and parking, adopting and the lease itself carry the epoch in their WHERE, so that a relay that was
//! paused and comes back changes nothing any more ([`SourceError::Fenced`]). Confirmed
//! rows are deleted without it: whoever got the confirmation, the row was delivered.
//!
//! # When who publishes
//!
//! The owner hands no row to a broker after two thirds of the lease, counted on its own monotonic clock from *before* it asked
//! for the lease: see [`Deadline`]. The last third is for what is on its way to the broker then, and for clocks that do not run
//! alike. Another relay takes over at once when the owner released the lease, and when its [sign of life](sign) is gone; else
//! only when both clocks agree: the lease has ended by the database's clock, *and* this relay has watched it for its whole
//! length, by its own monotonic clock, without a renewal. So neither a jump of the database's clock nor one of a machine's
//! wall clock makes two owners; nothing here reads a wall clock.
//!
//! What a pause of a whole machine does to its monotonic clock is beyond this: a virtual machine that is frozen for longer than
//! the lease may go on publishing for what it believes is left of it. Those are duplicates with the same ids; the epoch still
//! keeps it from changing anything.
//!
//! [`contender`] decides, without I/O; [`keeper`] carries out what it decides.

use std::{fmt, sync::OnceLock, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

use crate::source::SourceError;

pub mod contender;
pub mod deadline;
pub mod keeper;
#[cfg(test)]
mod model;
pub mod sign;

pub use deadline::Deadline;

/// The shortest and the longest lease: shorter ones are lost to a busy database, longer ones keep a standby waiting for nothing.
pub const LEASE_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// Longest name of an instance: what fits into `relay_source` on every database.
pub const INSTANCE_CHARS_MAX: usize = 200;

/// HOST-PROCESS-RANDOM: what people see of a relay that was given no name; the same throughout a process.
#[must_use]
pub fn default_instance() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        // Absent on other systems than Linux.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "relay" } else { host.trim() };
        let random = Uuid::now_v7().simple().to_string();
        format!("{host}-{}-{}", std::process::id(), &random[26..])
    })
}

/// The number of an ownership. It grows with every change of owner; the newest one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub i64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A relay that wants to own a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name, for people.
    pub name: String,
    /// What no other relay ever has, and where its sign of life can be seen: see [`sign`].
    pub process: String,
}

/// What `relay_source` says about the newest owner of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its epoch; 0 before the first.
    pub epoch: Epoch,
    /// How often it has renewed.
    pub renewals: i64,
    /// Its name, for people.
    pub owner: String,
    /// See [`Candidate::process`].
    pub process: String,
    /// The length of its lease.
    pub lease: Duration,
    /// When the lease ends by the database's clock, as text for people; none when it was released.
    pub until: Option<String>,
    /// How much of the lease is left, by the database's clock.
    pub left: Duration,
}

impl Holder {
    /// Whether the lease was given back.
    #[must_use]
    pub fn released(&self) -> bool {
        self.until.is_none()
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (epoch {})", self.owner, self.epoch)?;
        match &self.until {
            Some(until) => write!(f, " until {until}"),
            None => f.write_str(", who has released it"),
        }
    }
}

/// How a relay takes a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Take {
    /// It is taken only from this epoch,
    pub over: Epoch,
    /// which has renewed so often and not once more,
    pub renewals: i64,
    /// and whose lease has ended by the database's clock; with this, even when it has not.
    pub early: bool,
}

/// The row of a source in `relay_source`, for one candidate, on a connection of its own. After an error it is of no more use.
#[async_trait]
pub trait Leases: Send {
    /// The newest owner.
    ///
    /// # Errors
    /// When the database does not answer.
    async fn look(&mut self) -> Result<Holder, SourceError>;

    /// Takes the source, by compare-and-set: the new epoch, or none when it was not to be had like that.
    ///
    /// # Errors
    /// When it is not known to have been done. If it was, the next [`look`](Self::look) shows it.
    async fn take(&mut self, how: Take, lease: Duration) -> Result<Option<Epoch>, SourceError>;

    /// Renews the lease, from now on by the database's clock. It may have ended: while nobody took over, it is still ours.
    ///
    /// # Errors
    /// [`SourceError::Fenced`] when the epoch is not the newest; else when it is not known to have been done.
    async fn renew(&mut self, epoch: Epoch, lease: Duration) -> Result<(), SourceError>;

    /// Gives the lease back: whoever waits may take over at once.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    async fn release(&mut self, epoch: Epoch) -> Result<(), SourceError>;
}

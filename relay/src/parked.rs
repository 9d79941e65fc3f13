//! Messages that cannot be delivered, in an operator's hands: what `barid-relay parked` is made of.
//!
//! The relay moves a row that can never be delivered from the outbox to `relay_parked`. There it is *poison*: it holds its key,
//! and later rows of the key are parked *behind* it; or it is *skipped*, where its route holds nobody back. An operator
//! repairs the cause and then sends it again ([`Action::Retry`]), goes on without it ([`Action::Skip`]) or throws it away
//! ([`Action::Purge`]), all with a reason that is kept in `relay_audit`.
//!
//! **How order is kept.** An operator only changes `relay_parked`: a row that is to be sent again no longer holds its key, and so
//! is one that waits. He also raises the counter in `relay_released`. The relay sees that within a second, ends its session
//! and starts afresh: before it reads anything, it puts every row that nobody holds back into the outbox, with its id and at
//! the position where it was, so that it reads each key in its order from the beginning. What it parks in between, still
//! believing the key to be held, it puts back as well. A crash on the way changes nothing, because every start does the same,
//! and each row is in one of the two tables at any time, because each move is one transaction.
//!
//! **Why this is safe beside a running relay.** Only the relay that owns the source moves rows; the operator changes the state of
//! rows that the relay does not touch while it runs, each in the state that it was looked for in, which the database checks
//! under the lock of the row. Two operators at once wait for one another, and the second finds nothing left to change.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use crate::{
    lane::{ParkState, RowId},
    source::SourceError,
};

mod filter;
mod fingerprint;
pub mod json;
pub mod words;

pub use self::{
    filter::{Filter, Unmeant},
    fingerprint::fingerprint,
};

/// How long looking at or changing parked rows may take: there may be a million.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The parked messages of one source.
#[async_trait]
pub trait ParkedStore: Send + Sync {
    /// Messages that match, the oldest first.
    ///
    /// # Errors
    /// When the database fails.
    async fn list(&self, filter: &Filter, page: &Page) -> Result<Vec<ParkedMessage>, SourceError>;

    /// Messages that match by what went wrong, the largest groups first, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    async fn groups(&self, filter: &Filter, limit: u32) -> Result<Vec<Group>, SourceError>;

    /// How many match, without touching them.
    ///
    /// # Errors
    /// When the database fails.
    async fn count(&self, filter: &Filter) -> Result<Count, SourceError>;

    /// Does it, and writes it into `relay_audit` in the same transaction; returns how many messages were changed. Nothing is
    /// written where there were none.
    ///
    /// # Errors
    /// When the database fails. Unless the error says so, nothing was changed.
    async fn change(&self, change: &Change) -> Result<i64, SourceError>;
}

/// What is done to parked messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// They are sent again, with the same ids, and what waits behind them follows.
    Retry,
    /// Their keys go on without them; they stay as skipped.
    Skip,
    /// They are deleted for good; what waited behind them goes on.
    Purge,
}

impl Action {
    /// As the column `action` of `relay_audit` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Purge => "purge",
        }
    }

    /// The states that it means something to. A row that only waits is neither retried nor skipped: it follows by itself.
    #[must_use]
    pub fn states(self) -> &'static [ParkState] {
        match self {
            Self::Retry => &[ParkState::Poison, ParkState::Skipped],
            Self::Skip => &[ParkState::Poison],
            Self::Purge => &[ParkState::Poison, ParkState::Behind, ParkState::Skipped],
        }
    }

    /// The states that are meant where none is named, and no single message. Sending skipped messages late, or throwing away
    /// those that only wait, is asked for in so many words.
    #[must_use]
    pub fn usual_states(self) -> &'static [ParkState] {
        match self {
            Self::Retry | Self::Skip => &[ParkState::Poison],
            Self::Purge => &[ParkState::Poison, ParkState::Skipped],
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A change by an operator.
#[derive(Clone, Debug)]
pub struct Change {
    /// What to do.
    pub action: Action,
    /// To which messages. Its states are narrowed to [`Action::states`].
    pub filter: Filter,
    /// Who does it, as far as the program knows.
    pub who: String,
    /// Why.
    pub reason: String,
}

impl Change {
    /// Whether a key may be held no longer afterwards, so that a relay has to look.
    #[must_use]
    pub fn releases(&self) -> bool {
        let states = &self.filter.states;
        self.action != Action::Purge || states.is_empty() || states.contains(&ParkState::Poison)
    }
}

/// Which part of a long list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page {
    /// Begin after this message: the last one of the page before.
    pub after: Option<RowId>,
    /// At most so many.
    pub limit: u32,
    /// Whether to fetch the bodies too.
    pub bodies: bool,
}

/// A parked message. Times are milliseconds since 1970, by the database's clock.
#[derive(Clone, Debug, PartialEq)]
pub struct ParkedMessage {
    /// Where it was in the outbox, and its message id.
    pub row: RowId,
    /// `queue:NAME` or `topic:NAME`, or whatever else somebody wrote there.
    pub destination: String,
    /// The key: `aggregatetype`
    pub aggregatetype: String,
    /// The key: `aggregateid`. Without one it holds nobody.
    pub aggregateid: Option<String>,
    /// The message name.
    pub name: String,
    /// JSON.
    pub headers: String,
    /// Only when it was asked for.
    pub payload: Option<Vec<u8>>,
    /// Its length; none for a tombstone.
    pub payload_bytes: Option<i64>,
    /// W3C traceparent.
    pub tracingspancontext: Option<String>,
    /// When it was written.
    pub created_ms: i64,
    /// `poison`, `behind` or `skipped`: see [`ParkState`].
    pub state: String,
    /// How often it was published without success.
    pub attempts: i32,
    /// What went wrong.
    pub last_error: Option<String>,
    /// What its group is known by.
    pub fingerprint: Option<String>,
    /// When it was parked.
    pub parked_ms: i64,
}

impl ParkedMessage {
    /// Its ordering key as AGGREGATETYPE/AGGREGATEID; none without order.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        self.aggregateid.as_ref().map(|id| format!("{}/{id}", self.aggregatetype))
    }
}

/// Messages that failed in the same way. Times as above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What it is known by. None for messages that only wait, and for those of releases without fingerprints.
    pub fingerprint: Option<String>,
    /// `poison`, `behind` or `skipped`.
    pub state: String,
    /// How many messages.
    pub messages: i64,
    /// How many keys they have.
    pub keys: i64,
    /// When the first was parked.
    pub oldest_ms: i64,
    /// When the last was parked.
    pub newest_ms: i64,
    /// One of their destinations.
    pub destination: String,
    /// One of their errors.
    pub error: Option<String>,
}

/// How many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Messages.
    pub messages: i64,
    /// Different keys among them.
    pub keys: i64,
}

/// What an operator changed, or would have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// What was asked for.
    pub action: Action,
    /// In which source.
    pub source: String,
    /// Which messages, in words.
    pub selection: String,
    /// How many.
    pub count: Count,
    /// They were only counted.
    pub dry_run: bool,
}

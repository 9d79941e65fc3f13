//! Where sagas are kept.
//!
//! A saga is read with the opening text of the unit of work and written with the closing one, so it costs no round trip. Nobody
//! counts rows in the closing text: who saves a state that is not the newest violates `saga_revision`, who starts a second saga
//! of one value violates `saga_correlation_value`, and the whole text fails. That is a conflict, and the message is handled again.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::statement::Statement;
use crate::{
    error::{Error, Result},
    unit_of_work::Unit,
};

mod sql;

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub(crate) use sql::SagaRow;
pub(crate) use sql::{SagaRows, SqlSagas};

/// A property of a saga and its value: at most one saga of a name has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Correlation {
    pub(crate) property: String,
    pub(crate) value: String,
}

/// How the saga of a message is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// As its timeouts know it.
    Id(Uuid),
    /// By the first of these that finds one.
    Values(Vec<Correlation>),
}

/// A saga as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) id: Uuid,
    pub(crate) revision: i64,
    /// `None` once it is completed.
    pub(crate) data: Option<String>,
    pub(crate) timeouts: Option<String>,
    pub(crate) correlations: Vec<Correlation>,
}

/// A saga as it is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) saga: String,
    pub(crate) id: Uuid,
    /// The revision that was read; `None` for a new saga.
    pub(crate) read: Option<i64>,
    /// `None` completes it.
    pub(crate) data: Option<String>,
    pub(crate) timeouts: Option<String>,
    /// Properties that it had not.
    pub(crate) added: Vec<Correlation>,
    /// Properties that it had with another value.
    pub(crate) replaced: Vec<Correlation>,
    /// The message that changes it.
    pub(crate) message_id: Uuid,
}

/// Somebody else saved or started the saga first. The message is handled again, in a fresh unit of work.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Conflict(pub(crate) String);

/// A change that is to be saved.
pub(crate) struct Saved {
    pub(crate) change: Change,
    /// Whether [`SagaStore::replace`] has written its row already.
    pub(crate) replaced: bool,
}

/// How changes are saved.
pub(crate) enum Saving {
    /// By these statements of the closing text.
    Statements(Vec<Statement>),
    /// Checked and held: visible once it is confirmed, undone when it is dropped.
    Held(Box<dyn Held>),
}

/// Changes that are checked and not yet visible.
pub(crate) trait Held: Send {
    /// Makes them visible.
    fn confirm(self: Box<Self>);
}

/// What replacing a row at once came to.
pub(crate) enum Replaced {
    Done,
    /// It has changed since it was read, to this.
    Stale(Option<Stored>),
}

/// Where the sagas of a bus are kept.
#[async_trait]
pub(crate) trait SagaStore: Send + Sync + 'static {
    /// What the opening text has to read; `None` where nothing is read with it. With `lock` others wait until the unit ends.
    fn read(&self, saga: &str, lookup: &Lookup, lock: bool) -> Option<Statement>;

    /// The saga, from the rows of the read at this position.
    fn found(
        &self,
        unit: Option<&mut dyn Unit>,
        position: Option<usize>,
        saga: &str,
        lookup: &Lookup,
    ) -> Result<Option<Stored>>;

    /// Saves changes with the unit of work.
    fn save(&self, changes: &[Saved]) -> Result<Saving>;

    /// Writes the row of a change at once, if the saga has not changed meanwhile. Costs a round trip. `save` comes all the same.
    async fn replace(&self, unit: Option<&mut dyn Unit>, change: &Change) -> Result<Replaced>;

    /// Whether an error says that somebody else was first.
    fn is_conflict(&self, error: &Error) -> bool {
        error.cause().is::<Conflict>()
    }

    /// Removes up to `rows_max` sagas that were completed longer ago than this.
    async fn purge(&self, completed_for: Duration, rows_max: u32) -> Result<u64>;
}

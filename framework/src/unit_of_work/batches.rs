//! What a unit of work can do for several messages at once. Asked by the batch runner; see [`crate::batch`].

use async_trait::async_trait;

use super::Unit;
use crate::{
    error::Result,
    store::backend::{IdempotencyKey, Recorded},
};

/// One unit of work for several messages.
pub struct BegunBatch {
    /// The open unit. It refuses statements that could end its transaction: what one message ended would be lost for all.
    pub unit: Box<dyn Unit>,
    /// What the insert of each idempotency record says, in the order of the keys. With [`Recorded::InProgress`] in it the unit
    /// can only be rolled back.
    pub recorded: Vec<Recorded>,
}

/// Begins units of work for several messages, and counts the attempts of several messages with one statement.
#[async_trait]
pub trait Batches: Send + Sync + 'static {
    /// Begins one unit. With keys, their idempotency records are its first write; each id is among them once.
    ///
    /// # Errors
    /// When it cannot begin. Nothing is open then.
    async fn begin(&self, keys: &[IdempotencyKey]) -> Result<BegunBatch>;

    /// Counts the first attempt at each message that has none, durably, and says which those are: a message that was tried
    /// before is not counted and is not for a batch.
    ///
    /// # Errors
    /// When nothing was counted.
    async fn count_first(&self, keys: &[IdempotencyKey]) -> Result<Vec<bool>>;

    /// Takes back what [`Batches::count_first`] counted.
    ///
    /// # Errors
    /// When the counts stay.
    async fn take_back(&self, keys: &[IdempotencyKey]) -> Result<()>;
}

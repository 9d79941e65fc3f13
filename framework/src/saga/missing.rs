//! What happens to a message whose saga does not exist, or is completed.

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::{
    context::Context,
    error::{Disposition, Error, Result},
};

/// A message for a saga that is not there. What [`Definition::when_missing_call`](super::Definition::when_missing_call) gives to its
/// function.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// The name of the saga.
    pub saga: String,
    /// The properties and values that were looked for, in their order; empty when the message has none.
    pub looked_for: Vec<(String, String)>,
    /// The id of the saga when there was one and it has completed.
    pub completed: Option<Uuid>,
}

/// What to do with a message for a saga that does not exist or is completed. A message that starts sagas is never missing one, but it
/// can meet a completed one. A timeout that comes after the completion is always ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenMissing {
    /// The handler of the saga is skipped, with a line in the log at level debug; other handlers run. Default.
    #[default]
    Ignore,
    /// The message fails. For a saga that does not exist it is tried again as the retry policy says, for messages that can overtake
    /// the one that starts it, and then becomes a dead letter. For a completed saga it becomes one at once.
    Fail,
}

type Function = dyn Fn(Missing, Context) -> BoxFuture<'static, Result<()>> + Send + Sync;

/// What was said, with what was left to the user's code.
#[derive(Clone)]
pub(super) enum Policy {
    Said(WhenMissing),
    Call(Arc<Function>),
}

impl Policy {
    pub(super) async fn carry_out(&self, missing: Missing, cx: Context) -> Result<()> {
        match self {
            Self::Said(WhenMissing::Ignore) => {
                tracing::debug!(
                    saga = missing.saga,
                    outcome = if missing.completed.is_some() { "saga completed" } else { "saga not found" },
                    looked_for = ?missing.looked_for,
                    "ignoring a message for a saga"
                );
                Ok(())
            }
            Self::Said(WhenMissing::Fail) => {
                let again =
                    if missing.completed.is_some() { Disposition::DeadLetter } else { Disposition::Retry };
                Err(Error::new(missing.to_string()).with(again))
            }
            Self::Call(function) => function(missing, cx).await,
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.completed {
            Some(id) => write!(f, "saga {:?} with id {id} is completed", self.saga)?,
            None => write!(f, "there is no saga {:?}", self.saga)?,
        }
        if self.looked_for.is_empty() {
            return write!(f, ": the message has no value to find one by");
        }
        for (at, (property, value)) in self.looked_for.iter().enumerate() {
            write!(f, "{}{property} = {value}", if at == 0 { " for " } else { " or " })?;
        }
        Ok(())
    }
}

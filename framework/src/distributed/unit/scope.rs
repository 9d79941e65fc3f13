//! The scope of a distributed transaction: what runs in it, and what becomes of one that is dropped.

use std::{future::Future, panic::AssertUnwindSafe, sync::PoisonError};

use futures::FutureExt;

use super::{CommitReport, DistributedUnitOfWork};
use crate::{
    distributed::core::{Input, Phase},
    error::{Error, panic_text},
    limits,
};

impl DistributedUnitOfWork {
    /// Begins, runs `work`, and commits; rolls back when `work` fails or panics, and returns its error as it is.
    ///
    /// # Errors
    /// What `work` says, or what [`Self::begin`] and [`Self::commit`] say; look for a [`DistributedError`](crate::distributed::DistributedError) with
    /// [`Error::find`].
    pub async fn run<T, Fut>(mut self, work: impl FnOnce() -> Fut) -> Result<(T, CommitReport), Error>
    where
        Fut: Future<Output = Result<T, Error>>,
    {
        self.begin().await?;
        let value = self.worked(work).await?;
        Ok((value, self.commit().await?))
    }

    /// Runs what is done in it, and rolls back when that fails or panics.
    pub(in crate::distributed) async fn worked<T, Fut>(&self, work: impl FnOnce() -> Fut) -> Result<T, Error>
    where
        Fut: Future<Output = Result<T, Error>>,
    {
        match AssertUnwindSafe(work()).catch_unwind().await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                self.rolled_back_for(&error.to_string()).await;
                Err(error)
            }
            Err(panic) => {
                self.rolled_back_for(panic_text(panic.as_ref())).await;
                std::panic::resume_unwind(panic)
            }
        }
    }

    pub(super) async fn rolled_back_for(&self, cause: &str) {
        if let Err(error) = self.undo().await {
            tracing::error!(target: "transactions", gid = %self.gid, cause, %error, "rolling back failed, recovery does it");
        }
    }
}

/// Undecided, it is rolled back in the background; in a program without a runtime, or with too many of them, by recovery.
impl Drop for DistributedUnitOfWork {
    fn drop(&mut self) {
        let Some(machine) = self.machine.take() else { return };
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let over =
            matches!(seen.core.phase, Phase::New | Phase::Ended(_) | Phase::Committing | Phase::RollingBack);
        let tasks = &self.coordinator.0.tasks;
        if over
            || tasks.len() >= limits::DISTRIBUTED_DROPPED_MAX
            || tokio::runtime::Handle::try_current().is_err()
        {
            return;
        }
        tracing::warn!(target: "transactions", gid = %self.gid, "dropped undecided: rolling back");
        tasks.spawn(async move {
            // A phase that is still under way may decide it first; then this is refused, which is right.
            let _ = machine.lock().await.drive(Input::Rollback).await;
        });
    }
}

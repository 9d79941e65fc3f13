//! A distributed transaction that is done once for a key.

use std::future::Future;

use serde::{Serialize, de::DeserializeOwned};

use super::DistributedUnitOfWork;
use crate::{
    distributed::{DistributedError, ProcessError, ProcessKey, Processed},
    error::Error,
    store::{backend::Backend, distributed::home::SqlHome},
};

impl DistributedUnitOfWork {
    /// Begins, runs `work` and commits, unless that was done for this key before; then its result comes back. The key, the result and
    /// the decision commit together in `home`, which is registered here.
    ///
    /// # Errors
    /// [`ProcessError`]. After [`ProcessError::Unknown`] the same call with a new unit finds out; after every other error nothing was
    /// done.
    pub async fn run_once<DB: Backend, T, Fut>(
        mut self,
        home: &SqlHome<DB>,
        key: &ProcessKey,
        work: impl FnOnce() -> Fut,
    ) -> Result<Processed<T>, ProcessError>
    where
        T: Serialize + DeserializeOwned,
        Fut: Future<Output = Result<T, Error>>,
    {
        key.check()?;
        let failed =
            |error: DistributedError| ProcessError::Database { key: key.key.clone(), cause: error.into() };
        self.register_home(home.clone()).map_err(failed)?;
        self.begin().await.map_err(failed)?;
        match home.claim(key).await {
            Ok(None) => {}
            Ok(Some(before)) => {
                self.rolled_back_for("it was done before").await;
                return Ok(Processed::Before(before));
            }
            Err(error) => {
                self.rolled_back_for(&error.to_string()).await;
                return Err(error);
            }
        }
        let result = self.worked(work).await;
        let result = result.map_err(|cause| ProcessError::Failed { key: key.key.clone(), cause })?;
        if let Err(error) = home.keep(key, &result).await {
            self.rolled_back_for(&error.to_string()).await;
            return Err(error);
        }
        match self.commit().await {
            Ok(_) => Ok(Processed::Now(result)),
            Err(error @ (DistributedError::Aborted { .. } | DistributedError::Denied(_))) => {
                Err(ProcessError::Failed { key: key.key.clone(), cause: error.into() })
            }
            Err(error) => Err(ProcessError::Unknown { key: key.key.clone(), cause: error.into() }),
        }
    }
}

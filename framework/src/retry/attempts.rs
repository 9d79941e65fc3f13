//! Where the attempts at a message are counted: the contract, and the store of a bus without a database.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::shortened;
use crate::{error::Result, limits, store::backend::IdempotencyKey};

/// Where the attempts at a message are counted.
///
/// A count belongs to one message on one bus. All calls may come from several instances at once; a count never goes below 0,
/// and no call is lost. What a durable store has counted survives every restart. A message that nobody counted has no row.
#[async_trait]
pub trait AttemptStore: Send + Sync + 'static {
    /// Counts an attempt before it runs and returns the count, this one included.
    async fn started(&self, key: &IdempotencyKey) -> Result<u32>;
    /// Notes that an attempt failed and what it said, counting it unless `started` did, and returns the count.
    async fn failed(&self, key: &IdempotencyKey, counted: bool, error: &str) -> Result<u32>;
    /// Takes back a count: the attempt did not happen, or its outcome is unknown.
    async fn take_back(&self, key: &IdempotencyKey) -> Result<()>;
    /// What the failed attempts said, oldest first; shortened, and only as many as the store keeps.
    async fn errors(&self, key: &IdempotencyKey) -> Result<Vec<String>>;
    /// Forgets the message: it was handled or given up.
    async fn forget(&self, key: &IdempotencyKey) -> Result<()>;
}

/// Attempts of a bus whose unit of work has no database. A restart forgets them, and another instance does not see them.
#[derive(Debug, Default)]
pub struct MemoryAttempts(Mutex<HashMap<IdempotencyKey, Attempts>>);

#[derive(Debug, Default)]
struct Attempts {
    count: u32,
    errors: Vec<String>,
}

impl MemoryAttempts {
    fn all(&self) -> MutexGuard<'_, HashMap<IdempotencyKey, Attempts>> {
        // A counter cannot be broken by a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, key: &IdempotencyKey, by: i32, error: Option<&str>) -> u32 {
        let mut all = self.all();
        if all.len() >= limits::ATTEMPTS_REMEMBERED_MAX && !all.contains_key(key) {
            // Forgetting gives some messages more attempts than they should have; growing without bound would end worse.
            all.clear();
        }
        let attempts = all.entry(key.clone()).or_default();
        attempts.count = attempts.count.saturating_add_signed(by);
        if let Some(error) = error
            && attempts.errors.len() < limits::ATTEMPT_ERRORS_MAX
        {
            attempts.errors.push(shortened(error, limits::ATTEMPT_ERROR_BYTES_MAX));
        }
        attempts.count
    }
}

#[async_trait]
impl AttemptStore for MemoryAttempts {
    async fn started(&self, key: &IdempotencyKey) -> Result<u32> {
        Ok(self.count(key, 1, None))
    }

    async fn failed(&self, key: &IdempotencyKey, counted: bool, error: &str) -> Result<u32> {
        Ok(self.count(key, i32::from(!counted), Some(error)))
    }

    async fn take_back(&self, key: &IdempotencyKey) -> Result<()> {
        self.count(key, -1, None);
        Ok(())
    }

    async fn errors(&self, key: &IdempotencyKey) -> Result<Vec<String>> {
        Ok(self.all().get(key).map(|attempts| attempts.errors.clone()).unwrap_or_default())
    }

    async fn forget(&self, key: &IdempotencyKey) -> Result<()> {
        self.all().remove(key);
        Ok(())
    }
}

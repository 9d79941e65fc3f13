//! A nested scope of a unit of work, whose failure the unit survives.

use std::{
    ops::{Deref, DerefMut},
    sync::atomic::Ordering,
};

use super::UnitConnection;
use crate::{
    error::{Error, Result},
    store::backend::Backend,
};

/// A nested scope of a unit of work. See [`UnitConnection::savepoint`].
#[must_use = "a savepoint that is neither released nor rolled back fails the message"]
pub struct Savepoint<'a, DB: Backend> {
    pub(super) unit: &'a mut UnitConnection<DB>,
    pub(super) depth: u32,
    pub(super) poisoned_before: bool,
}

impl<DB: Backend> Savepoint<'_, DB> {
    /// Keeps what was done since the savepoint.
    ///
    /// # Errors
    /// When a statement since the savepoint failed (roll back instead), or the database refuses.
    pub async fn release(self) -> Result<()> {
        if self.unit.savepoints != self.depth
            || (self.unit.poisoned.load(Ordering::Relaxed) && !self.poisoned_before)
        {
            return Err(Error::new("a statement since the savepoint failed: roll the savepoint back"));
        }
        let text = format!("RELEASE SAVEPOINT barid_{}", self.depth);
        DB::simple(self.unit.live()?, text).await?;
        self.unit.savepoints = self.depth - 1;
        Ok(())
    }

    /// Undoes what was done since the savepoint; failures since then no longer poison the unit.
    ///
    /// # Errors
    /// When the database refuses or is gone.
    pub async fn rollback(self) -> Result<()> {
        let text = format!("ROLLBACK TO SAVEPOINT barid_{0};RELEASE SAVEPOINT barid_{0}", self.depth);
        DB::simple(self.unit.live()?, text).await?;
        self.unit.savepoints = self.depth - 1;
        self.unit.poisoned.store(self.poisoned_before, Ordering::Relaxed);
        Ok(())
    }
}

impl<DB: Backend> Deref for Savepoint<'_, DB> {
    type Target = UnitConnection<DB>;

    fn deref(&self) -> &Self::Target {
        self.unit
    }
}

impl<DB: Backend> DerefMut for Savepoint<'_, DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.unit
    }
}

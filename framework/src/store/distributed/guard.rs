//! The connection of a branch in the hands of whoever works in it.

use std::ops::{Deref, DerefMut};

use tokio::sync::OwnedMutexGuard;

use super::branch::TwoPhase;
use crate::store::connection::UnitConnection;

/// The connection of a branch, while it is used. Drop it before the transaction is prepared.
pub struct BranchGuard<DB: TwoPhase>(pub(super) OwnedMutexGuard<Option<UnitConnection<DB>>>);

impl<DB: TwoPhase> Deref for BranchGuard<DB> {
    type Target = UnitConnection<DB>;

    #[allow(clippy::expect_used)] // looked at when the guard was made, and nobody else can take it
    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("a guard is only made of an open branch")
    }
}

impl<DB: TwoPhase> DerefMut for BranchGuard<DB> {
    #[allow(clippy::expect_used)] // see above
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0.as_mut().expect("a guard is only made of an open branch")
    }
}

//! A participant that nobody hears of.

use std::future::pending;

use async_trait::async_trait;
use barid::distributed::{Ack, BranchId, ResourceId, RmError, TransactionParticipant, Vote};

/// Prepares, and never says so.
pub(super) struct Deaf<P>(pub(super) P);

#[async_trait]
impl<P: TransactionParticipant> TransactionParticipant for Deaf<P> {
    fn resource_id(&self) -> &ResourceId {
        self.0.resource_id()
    }

    fn resource_type(&self) -> &'static str {
        self.0.resource_type()
    }

    async fn begin(&self, branch: &BranchId) -> Result<(), RmError> {
        self.0.begin(branch).await
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, RmError> {
        self.0.prepare(branch).await?;
        pending().await
    }

    async fn commit(&self, branch: &BranchId) -> Result<Ack, RmError> {
        self.0.commit(branch).await
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Ack, RmError> {
        self.0.rollback(branch).await
    }
}

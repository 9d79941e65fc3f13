//! A participant made of closures.

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::{
    ids::{BranchId, ResourceId},
    participant::{Ack, RmError, TransactionParticipant, Vote},
};

type Call<T> = Arc<dyn Fn(BranchId) -> BoxFuture<'static, Result<T, RmError>> + Send + Sync>;

/// A participant made of three closures. Its resource must be one that recovery can ask: give the coordinator a
/// [`Resource`](super::Resource) of the same name.
#[derive(Clone)]
pub struct FnParticipant {
    resource: ResourceId,
    prepare: Call<Vote>,
    commit: Call<Ack>,
    rollback: Call<Ack>,
}

impl FnParticipant {
    /// What [`TransactionParticipant`] says of the three calls holds for the closures.
    pub fn new<P, C, R>(
        resource: ResourceId,
        prepare: impl Fn(BranchId) -> P + Send + Sync + 'static,
        commit: impl Fn(BranchId) -> C + Send + Sync + 'static,
        rollback: impl Fn(BranchId) -> R + Send + Sync + 'static,
    ) -> Self
    where
        P: Future<Output = Result<Vote, RmError>> + Send + 'static,
        C: Future<Output = Result<Ack, RmError>> + Send + 'static,
        R: Future<Output = Result<Ack, RmError>> + Send + 'static,
    {
        Self {
            resource,
            prepare: Arc::new(move |branch| Box::pin(prepare(branch))),
            commit: Arc::new(move |branch| Box::pin(commit(branch))),
            rollback: Arc::new(move |branch| Box::pin(rollback(branch))),
        }
    }
}

#[async_trait]
impl TransactionParticipant for FnParticipant {
    fn resource_id(&self) -> &ResourceId {
        &self.resource
    }

    fn resource_type(&self) -> &'static str {
        "closure"
    }

    async fn begin(&self, _: &BranchId) -> Result<(), RmError> {
        Ok(())
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, RmError> {
        (self.prepare)(*branch).await
    }

    async fn commit(&self, branch: &BranchId) -> Result<Ack, RmError> {
        (self.commit)(*branch).await
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Ack, RmError> {
        (self.rollback)(*branch).await
    }
}

//! What named transactions need of the unit of work: prepared, it is left to whoever knows its name.

use std::time::Duration;

use futures::FutureExt;

use super::{DistributedUnitOfWork, ended};
use crate::{
    distributed::{
        DistributedError, Principal, TransactionName,
        core::{BranchKind, BranchState, Input, Phase, Protocol, Refusal},
    },
    limits,
};

impl DistributedUnitOfWork {
    /// That everybody in it can be prepared and ended by another process, and that it has not begun.
    pub(in crate::distributed) fn name_it(
        &mut self,
        name: &TransactionName,
        who: &Principal,
    ) -> Result<(), DistributedError> {
        self.refuse_begun()?;
        let unsupported =
            |what: String, why: &str| DistributedError::Unsupported { what, why: why.to_owned() };
        if self.home.is_some() {
            let why = "its one local transaction ends with this process, and it cannot be prepared";
            return Err(unsupported("a home unit of work".to_owned(), why));
        }
        if let Some(last) = self.records.iter().find(|record| record.kind == BranchKind::Last) {
            let what = format!("{} ({:?})", last.resource_type, last.name);
            return Err(unsupported(what, "it cannot be prepared"));
        }
        if self.records.is_empty() {
            return Err(unsupported(
                "a transaction without participants".to_owned(),
                "nothing of it could wait",
            ));
        }
        (self.label.name, self.label.principal) = (Some(name.clone()), Some(who.clone()));
        Ok(())
    }

    /// Asks everybody to promise, and lets it wait for so long. What does not wait is rolled back.
    pub(in crate::distributed) async fn keep_prepared(
        &mut self,
        wait: Duration,
    ) -> Result<(), DistributedError> {
        let mut ready = self.prepare_all().await?;
        if ready && self.protocol == Protocol::ThreePhase {
            ready = self.pre_commit_all().await?;
        }
        let kept = ready && self.wait_prepared(wait).await?;
        if kept {
            // It is not ours any more: dropped, it is not rolled back.
            self.machine = None;
            return Ok(());
        }
        let rolled_back = self.phase(|machine| {
            async move {
                machine.drive(Input::Rollback).await?;
                ended(machine)
            }
            .boxed()
        });
        rolled_back.await.map(drop)
    }

    async fn wait_prepared(&self, wait: Duration) -> Result<bool, DistributedError> {
        self.phase(move |machine| {
            async move {
                if !matches!(machine.core.phase, Phase::Prepared | Phase::PreCommitted) {
                    return Err(Refusal::NotPrepared.into());
                }
                let read_only =
                    |branch: &crate::distributed::core::Branch| branch.state == BranchState::ReadOnly;
                let places = machine.core.branches.iter().enumerate().filter(|(_, branch)| read_only(branch));
                let places: Vec<u16> = places.filter_map(|(at, _)| u16::try_from(at).ok()).collect();
                let log = &machine.shared.log;
                match log.keep_prepared(machine.gid, wait, &places).await {
                    Ok(true) => {}
                    Ok(false) => {
                        let found = log.show(machine.gid).await?;
                        machine.cause = found.and_then(|found| found.transaction.decision_reason);
                        return Ok(false);
                    }
                    Err(error) => {
                        machine.cause = Some(error.to_string());
                        return Ok(false);
                    }
                }
                for part in &machine.parts {
                    // What does not answer is let go of when it is dropped.
                    drop(tokio::time::timeout(limits::CALL_TIMEOUT, part.participant.leave()).await);
                }
                machine.watch.left();
                Ok(true)
            }
            .boxed()
        })
        .await
    }
}

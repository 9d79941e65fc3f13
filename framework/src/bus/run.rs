//! The life of a running bus: ready, declared, receiving, stopped.

use std::{future::Future, sync::Arc};

use super::{Bus, BusCore};
use crate::{
    background::Running,
    error::{Disposition, Error},
    transport::{Consumer, Inbox, TransportError},
    worker,
};

/// What ends a running bus.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The transport failed for good, or at the start.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The unit of work is not ready: its database cannot be reached, or its schema does not fit.
    #[error("the unit of work of bus {bus:?} is not ready: {cause}")]
    UnitOfWork {
        /// The bus.
        bus: String,
        /// What is wrong and what to do.
        cause: Error,
    },
    /// The subscriptions could not be written to their store.
    #[error("the subscriptions of bus {bus:?} could not be stored: {cause}")]
    Subscriptions {
        /// The bus.
        bus: String,
        /// What is wrong and what to do.
        cause: Error,
    },
    /// The bus, or a clone of it, is running. Build a second bus for a second worker, or raise its parallelism.
    #[error(
        "error BRD080: bus {bus:?} is already running\n  \
         a bus runs once at a time, and its clones are the same bus: build a second one, or raise its parallelism"
    )]
    AlreadyRunning {
        /// The bus.
        bus: String,
    },
}

impl BusError {
    /// Whether trying again without changing anything can help: a server that cannot be reached may come back, a missing schema
    /// or refused credentials stay as they are.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transport(error) => error.is_transient(),
            Self::UnitOfWork { cause, .. } | Self::Subscriptions { cause, .. } => may_pass(cause),
            Self::AlreadyRunning { .. } => false,
        }
    }
}

/// Whether what is not ready may become so by itself. A schema that does not fit stays as it is.
fn may_pass(cause: &Error) -> bool {
    #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
    if let Some(error) = cause.cause().downcast_ref::<crate::store::schema::SchemaError>() {
        return error.is_transient();
    }
    cause.disposition() != Disposition::DeadLetter
}

impl Bus {
    /// Makes the bus's queue, its subscriptions and the queue for dead letters, without receiving. [`Bus::run_until`] does it
    /// too; call this before somebody sends to a bus that is not yet running. A bus that only sends has nothing to declare.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub async fn declare(&self) -> Result<(), BusError> {
        let core = &self.0;
        if core.settings.send_only {
            return Ok(());
        }
        core.transport.declare(&core.inbox).await?;
        core.transport.declare(&Inbox::new(core.settings.dead_letters.name())).await?;
        let subscribed = core.subscribe_at_start().await;
        subscribed.map_err(|cause| BusError::Subscriptions { bus: core.name.clone(), cause })
    }

    /// Declares the queue, receives and handles until `stop` is ready, then waits for the handlers that still run for as
    /// long as the grace period says. A bus that only sends runs its background tasks until then, and receives nothing.
    ///
    /// Dropping the future instead stops at once: handlers are dropped and roll back, their messages come again.
    ///
    /// # Errors
    /// [`BusError`] when the bus cannot start, or the transport fails in a way that trying again does not mend. Passing
    /// failures are logged and retried. [`Host`](crate::Host) starts a bus again that ended with an error.
    pub async fn run_until(&self, stop: impl Future<Output = ()> + Send) -> Result<(), BusError> {
        self.run_telling(stop, || ()).await
    }

    /// As [`Bus::run_until`], and tells when it has started.
    pub(crate) async fn run_telling(
        &self,
        stop: impl Future<Output = ()> + Send,
        started: impl FnOnce() + Send,
    ) -> Result<(), BusError> {
        let core = &self.0;
        let Some(run) = core.vitals.begin() else {
            return Err(BusError::AlreadyRunning { bus: core.name.clone() });
        };
        let result = async {
            let consumer = self.start().await?;
            let background = Running::start(core);
            core.vitals.running();
            started();
            let result = match consumer {
                Some(consumer) => worker::run(Arc::clone(core), consumer, stop).await,
                None => {
                    worker::wait(core, stop).await;
                    Ok(())
                }
            };
            background.stop().await;
            tracing::info!(bus = core.name, "bus stopped");
            result
        }
        .await;
        if let Err(error) = &result {
            run.failed(error);
        }
        result
    }

    /// Everything before the first receive. A bus that only sends has no consumer.
    async fn start(&self) -> Result<Option<Box<dyn Consumer>>, BusError> {
        let core = &self.0;
        if let Some(unit_of_work) = &core.unit_of_work {
            unit_of_work
                .ready()
                .await
                .map_err(|cause| BusError::UnitOfWork { bus: core.name.clone(), cause })?;
        }
        let consumer = if core.settings.send_only {
            None
        } else {
            self.declare().await?;
            Some(core.transport.consumer(&core.inbox).await?)
        };
        log_start(core);
        Ok(consumer)
    }
}

fn log_start(core: &BusCore) {
    let settings = &core.settings;
    tracing::info!(
        bus = core.name,
        queue = (!settings.send_only).then_some(core.inbox.queue.as_str()),
        commit_with_transaction = settings.commit_with_transaction,
        parallelism = settings.parallelism,
        batch = ?settings.batch,
        stop_grace_ms = settings.stop_grace.as_millis(),
        rate_limit = ?settings.worker.rate_limit,
        circuit_breaker = ?settings.worker.circuit_breaker,
        outbox = core.outbox.is_some(),
        idempotency = core.idempotency.is_some(),
        origins = ?settings.origins,
        "bus started"
    );
}

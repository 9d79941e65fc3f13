//! Receives, runs the pipeline, settles: the loop of a running bus.
//!
//! Bounded parallelism, one task a message, every exit of a task seen. Stopping ends receiving first, then waits for the
//! handlers that run, for a bounded time; what is still running after that is dropped, which rolls it back.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    batch,
    bus::{BusCore, BusError},
    transport::Consumer,
};

const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
const PAUSE_AFTER_ERROR_MAX: Duration = Duration::from_secs(5);

/// Runs until `stop` is ready or the transport fails for good.
pub(crate) async fn run(
    core: Arc<BusCore>,
    mut consumer: Box<dyn Consumer>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), BusError> {
    let mut stop = std::pin::pin!(stop);
    let permits = Arc::new(Semaphore::new(core.settings.parallelism));
    let mut running = JoinSet::new();
    let mut pause = PAUSE_AFTER_ERROR;
    let mut failed = None;
    let result = loop {
        let permit = tokio::select! {
            biased;
            () = &mut stop => break Ok(()),
            permit = Arc::clone(&permits).acquire_owned() => permit,
        };
        let received = match failed.take() {
            Some(error) => Err(error),
            None => tokio::select! {
                biased;
                () = &mut stop => break Ok(()),
                received = consumer.receive() => received,
            },
        };
        while let Some(ended) = running.try_join_next() {
            report(ended);
        }
        match received {
            Ok(delivery) => {
                pause = PAUSE_AFTER_ERROR;
                let deliveries;
                (deliveries, failed) =
                    batch::gather(consumer.as_mut(), delivery, core.settings.batch.as_ref()).await;
                let core = Arc::clone(&core);
                running.spawn(async move {
                    batch::handle(core, deliveries).await;
                    drop(permit);
                });
            }
            Err(error) if !error.is_transient() => break Err(BusError::Transport(error)),
            Err(error) => {
                tracing::warn!(bus = core.name, %error, retry_ms = pause.as_millis(), "receiving");
                tokio::select! {
                    biased;
                    () = &mut stop => break Ok(()),
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_AFTER_ERROR_MAX),
                }
            }
        }
    };
    drain(&core, running).await;
    if let Err(error) = consumer.close().await {
        tracing::warn!(bus = core.name, %error, "closing the consumer");
    }
    result
}

async fn drain(core: &BusCore, mut running: JoinSet<()>) {
    let finished = async {
        while let Some(ended) = running.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(core.settings.stop_grace, finished).await.is_err() {
        tracing::warn!(
            bus = core.name,
            handlers = running.len(),
            "handlers still ran when the grace period ended: they are dropped, their messages come again"
        );
        running.shutdown().await;
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the task of a message ended abnormally; the message will come again");
    }
}

//! What runs beside the worker of a bus (due messages, replies, retention), supervised.
//!
//! A task that fails or panics is logged, counted and started again after a pause that grows; a task that returns Ok is done.
//! Stopping asks all of them, waits for a bounded time, and drops what still runs.

use std::{panic::AssertUnwindSafe, sync::Arc};

use async_trait::async_trait;
use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    bus::BusCore,
    error::{Error, Result, panic_text},
    limits,
};

/// One thing that runs while its bus runs.
#[async_trait]
pub(crate) trait Background: Send + Sync + 'static {
    /// For logs.
    fn name(&self) -> &'static str;

    /// Works until `stop` is cancelled.
    ///
    /// # Errors
    /// Any error is logged and the task is started again: nothing may depend on what it had in memory.
    async fn run(&self, core: &Arc<BusCore>, stop: &CancellationToken) -> Result<()>;
}

/// The background tasks of one running bus.
pub(crate) struct Running {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Running {
    pub(crate) fn start(core: &Arc<BusCore>) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        core.vitals.tasks(core.background.iter().map(|task| task.name()));
        for (place, task) in core.background.iter().enumerate() {
            tasks.spawn(supervise(place, Arc::clone(task), Arc::clone(core), stop.clone()));
        }
        Self { tasks, stop }
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limits::BACKGROUND_STOP_WAIT, ended).await.is_err() {
            tracing::warn!(
                tasks = self.tasks.len(),
                "background tasks did not end in time: they are dropped"
            );
            self.tasks.shutdown().await;
        }
    }
}

async fn supervise(place: usize, task: Arc<dyn Background>, core: Arc<BusCore>, stop: CancellationToken) {
    let mut pauses = Backoff::doubling(limits::ERROR_PAUSE, limits::ERROR_PAUSE_MAX).start();
    loop {
        let began = tokio::time::Instant::now();
        let ended = AssertUnwindSafe(task.run(&core, &stop)).catch_unwind().await;
        let error = match ended {
            Ok(Ok(())) => return core.vitals.task_ended(place, None),
            Ok(Err(error)) => error,
            Err(panic) => Error::new(format!("it panicked: {}", panic_text(panic.as_ref()))),
        };
        core.vitals.task_ended(place, Some(&error));
        if stop.is_cancelled() {
            return;
        }
        pauses.had_run(began.elapsed());
        let pause = pauses.pause();
        tracing::error!(bus = core.name, task = task.name(), %error, retry_ms = pause.as_millis(), "a background task failed");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => core.vitals.task_restarted(place),
        }
    }
}

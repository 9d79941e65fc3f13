//! A relay at work inside this process.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use barid::Doorbell;
use barid_relay::{
    Relay, RelayError,
    lane::{Order, Stats},
    relay::Settings,
    sink::Sink,
    source::Source,
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

/// How long one side may take before the run is given up.
pub(crate) const SIDE_MAX: Duration = Duration::from_secs(300);

/// A relay that runs until it is stopped, or dropped.
pub(crate) struct Running {
    pub(crate) doorbell: Doorbell,
    stats: watch::Receiver<Stats>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Stats, RelayError>>,
}

impl Running {
    /// Starts a relay from `source` to `sink` with its default settings.
    pub(crate) fn start(source: Arc<dyn Source>, sink: Sink, order: Order) -> anyhow::Result<Self> {
        let name = sink.name.clone();
        let mut settings = Settings::default();
        // As a configuration file has it.
        settings.buffer_rows_max = settings.buffer_rows_max.max(sink.window.rows_max + settings.batch_rows);
        let relay = Relay::builder(source).sink(sink).route("*", name, order).settings(settings).build()?;
        let (stats, doorbell) = (relay.stats(), relay.doorbell());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(relay.run_until(async {
            // Told to stop, or nobody is there any more who could.
            let _ = stopped.await;
        }));
        Ok(Self { doorbell, stats, stop, task })
    }

    /// Waits until so many rows are confirmed.
    pub(crate) async fn confirmed(&mut self, rows: usize) -> anyhow::Result<()> {
        let rows = rows as u64;
        let confirmed = timeout(SIDE_MAX, self.stats.wait_for(|stats| stats.confirmed >= rows));
        confirmed
            .await
            .with_context(|| format!("{rows} rows took longer than {SIDE_MAX:?}"))?
            .context("the relay has ended")?;
        Ok(())
    }

    /// Waits until so many rows have left the outbox.
    pub(crate) async fn left(&mut self, rows: usize) -> anyhow::Result<()> {
        let rows = rows as u64;
        let left = timeout(SIDE_MAX, self.stats.wait_for(|stats| stats.left >= rows));
        left.await
            .with_context(|| format!("{rows} rows took longer than {SIDE_MAX:?}"))?
            .context("the relay has ended")?;
        Ok(())
    }

    /// Stops it cleanly.
    pub(crate) async fn stop(self) -> anyhow::Result<Stats> {
        // The relay listens until it is told; if it has ended, its answer says why.
        let _ = self.stop.send(());
        Ok(self.task.await??)
    }
}

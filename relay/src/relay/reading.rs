//! The task that reads: one request at a time, polling until there is something.

use std::{sync::Arc, time::Instant};

use barid::Doorbell;
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

use super::{RelayError, Settings};
use crate::{
    lane::backoff::Backoff,
    lease::Epoch,
    source::{ReadRow, Reader, Source, SourceError, Want},
    waking::Pace,
};

/// Rows, and when they were asked for.
type Page = Result<(Instant, Vec<ReadRow>), SourceError>;

/// The session's end of it.
pub(super) struct Reading {
    source_name: String,
    wants: mpsc::Sender<Want>,
    pages: mpsc::Receiver<Page>,
    asked: bool,
    task: JoinHandle<()>,
}

impl Reading {
    /// Starts the task with a reader that has adopted what there was to adopt.
    pub(super) fn start(
        source: Arc<dyn Source>,
        epoch: Epoch,
        reader: Box<dyn Reader>,
        settings: &Settings,
        doorbell: Doorbell,
    ) -> Self {
        let (wants, wanted) = mpsc::channel(1);
        let (found, pages) = mpsc::channel(1);
        let source_name = source.name().to_owned();
        let pace = Pace::new(settings.poll_min, settings.idle_poll);
        let backoff = settings.backoff();
        let task = Task { source, epoch, pace, backoff, doorbell };
        let task = tokio::spawn(task.run(reader, wanted, found));
        Self { source_name, wants, pages, asked: false, task }
    }

    /// Whether a request is under way.
    pub(super) fn asked(&self) -> bool {
        self.asked
    }

    /// Asks for rows; only when no request is under way.
    pub(super) fn ask(&mut self, want: Want) {
        // The channel has room for the one request that there is; a task that has ended says so in `rows`.
        self.asked = self.wants.try_send(want).is_ok();
    }

    /// The rows that were asked for, and when. When the task has ended, its last page says why. Cancel safe.
    pub(super) async fn rows(&mut self) -> Result<(Instant, Vec<ReadRow>), RelayError> {
        let page = self.pages.recv().await;
        self.asked = false;
        let died = || RelayError::TaskDied { source_name: self.source_name.clone(), task: "reading" };
        Ok(page.ok_or_else(died)??)
    }

    /// Ends the task, and with it the reader's connection.
    pub(super) fn stop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A reader of a source that is ours, ready to read.
pub(super) async fn open(source: &dyn Source, epoch: Epoch) -> Result<Box<dyn Reader>, SourceError> {
    let mut reader = source.reader().await?;
    let rows = reader.adopt(epoch).await?;
    if rows > 0 {
        tracing::warn!(source = source.name(), rows, "adopted rows of another server");
    }
    Ok(reader)
}

struct Task {
    source: Arc<dyn Source>,
    epoch: Epoch,
    pace: Pace,
    backoff: Backoff,
    doorbell: Doorbell,
}

impl Task {
    async fn run(
        mut self,
        mut reader: Box<dyn Reader>,
        mut wanted: mpsc::Receiver<Want>,
        found: mpsc::Sender<Page>,
    ) {
        while let Some(want) = wanted.recv().await {
            let page = self.page(&mut reader, &want).await;
            let ends = page.is_err();
            if found.send(page).await.is_err() || ends {
                return;
            }
        }
    }

    /// Reads until there is something.
    async fn page(&mut self, reader: &mut Box<dyn Reader>, want: &Want) -> Page {
        loop {
            let asked = Instant::now();
            match reader.read(want).await {
                Ok(rows) if rows.is_empty() => self.pace.rest(&self.doorbell).await,
                Ok(rows) => {
                    self.pace.found();
                    return Ok((asked, rows));
                }
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => {
                    tracing::warn!(source = self.source.name(), %error, "reading failed; connecting again");
                    *reader = self.reopen().await?;
                }
            }
        }
    }

    /// A new reader.
    async fn reopen(&mut self) -> Result<Box<dyn Reader>, SourceError> {
        let mut attempts = 0;
        loop {
            match open(&*self.source, self.epoch).await {
                Ok(reader) => return Ok(reader),
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => {
                    attempts += 1;
                    let pause = self.backoff.delay(attempts);
                    tracing::debug!(source = self.source.name(), %error, ?pause, "not connected yet");
                    sleep(pause).await;
                }
            }
        }
    }
}

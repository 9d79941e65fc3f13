//! The task that reads: one request at a time. News are polled for until there are some; a key is read again at once.

use std::{sync::Arc, time::Instant};

use barid::Doorbell;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::sleep,
};

use super::{Relay, RelayError, Tuner};
use crate::{
    lane::{LeftOut, backoff::Backoff},
    lease::Epoch,
    source::{ReadRow, Reader, Source, SourceError, Want},
    waking::Pace,
};

/// Rows, and when they were asked for.
type Page = Result<(Instant, Vec<ReadRow>), SourceError>;

/// What a request is for.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// Rows that were not handed out yet. Answered when there are some, or [`Reading::hurry`] says so.
    News,
    /// Rows of this key that were left in the outbox. No rows say that there are no more.
    Again(LeftOut),
}

/// The session's end of it.
pub(super) struct Reading {
    source_name: String,
    wants: mpsc::Sender<(Asked, Want)>,
    pages: mpsc::Receiver<Page>,
    asked: Option<Asked>,
    /// Whose turn it is not.
    read_again: bool,
    hurry: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Reading {
    /// Starts the task with a reader that has adopted what there was to adopt.
    pub(super) fn start(relay: &Relay, epoch: Epoch, reader: Box<dyn Reader>) -> Self {
        let (source, doorbell) = (relay.source.clone(), relay.doorbell());
        let (wants, wanted) = mpsc::channel(1);
        let (found, pages) = mpsc::channel(1);
        let source_name = source.name().to_owned();
        let (tuner, backoff) = (relay.tuner(), relay.settings.backoff());
        let pace = Pace::new(tuner.now().poll_min, tuner.now().idle_poll);
        let hurry = Arc::new(Notify::new());
        let task = Task { source, epoch, tuner, pace, backoff, doorbell, hurry: hurry.clone() };
        let task = tokio::spawn(task.run(reader, wanted, found));
        Self { source_name, wants, pages, asked: None, read_again: false, hurry, task }
    }

    /// Whether a request is under way.
    pub(super) fn asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether it is the turn of a key that is to be read again.
    pub(super) fn may_ask_again(&self) -> bool {
        !self.read_again
    }

    /// Asks for rows; only when no request is under way.
    pub(super) fn ask(&mut self, asked: Asked, want: Want) {
        self.read_again = matches!(asked, Asked::Again(_));
        // The channel has room for the one request that there is; a task that has ended says so in `rows`.
        self.asked = self.wants.try_send((asked.clone(), want)).is_ok().then_some(asked);
    }

    /// Has a request for news answered even if there are none: something else is to be read.
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// What was asked for, and when. When the task has ended, its last page says why. Cancel safe.
    pub(super) async fn rows(&mut self) -> Result<(Asked, Instant, Vec<ReadRow>), RelayError> {
        let page = self.pages.recv().await;
        let asked = self.asked.take().unwrap_or(Asked::News);
        let died = || RelayError::TaskDied { source_name: self.source_name.clone(), task: "reading" };
        let (at, rows) = page.ok_or_else(died)??;
        Ok((asked, at, rows))
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
    tuner: Tuner,
    pace: Pace,
    backoff: Backoff,
    doorbell: Doorbell,
    hurry: Arc<Notify>,
}

impl Task {
    async fn run(
        mut self,
        mut reader: Box<dyn Reader>,
        mut wanted: mpsc::Receiver<(Asked, Want)>,
        found: mpsc::Sender<Page>,
    ) {
        while let Some((asked, want)) = wanted.recv().await {
            let page = self.page(&mut reader, &asked, &want).await;
            let ends = page.is_err();
            if found.send(page).await.is_err() || ends {
                return;
            }
        }
    }

    /// Reads a key, or until there is something.
    async fn page(&mut self, reader: &mut Box<dyn Reader>, asked: &Asked, want: &Want) -> Page {
        loop {
            let began = Instant::now();
            let read = match asked {
                Asked::News => reader.read(want).await,
                Asked::Again(left_out) => reader.again(left_out, want).await,
            };
            match read {
                Ok(rows) if rows.is_empty() && matches!(asked, Asked::News) => {
                    let live = self.tuner.now();
                    self.pace.between(live.poll_min, live.idle_poll);
                    tokio::select! {
                        () = self.pace.rest(&self.doorbell) => {}
                        () = self.hurry.notified() => return Ok((began, rows)),
                    }
                }
                Ok(rows) => {
                    self.pace.found();
                    return Ok((began, rows));
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

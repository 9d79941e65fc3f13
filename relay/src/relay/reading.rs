//! The task that reads: one request at a time, polling until there is something.

use std::sync::Arc;

use barid::Doorbell;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};

use super::{RelayError, Settings};
use crate::{
    lane::backoff::Backoff,
    source::{Claim, ReadRow, Reader, Source, SourceError, Want},
    waking::Pace,
};

/// Rows, or `None` when somebody else owned the source in between.
type Page = Result<Option<Vec<ReadRow>>, SourceError>;

/// What the task has to say.
pub(super) enum News {
    /// The rows that were asked for.
    Rows(Vec<ReadRow>),
    /// The source was somebody else's in between.
    Superseded,
    /// The source was lost or is ours again: look at [`Reading::claimed`].
    ClaimChanged,
}

/// The session's end of it.
pub(super) struct Reading {
    source_name: String,
    wants: mpsc::Sender<Want>,
    pages: mpsc::Receiver<Page>,
    claimed: watch::Receiver<bool>,
    asked: bool,
    task: JoinHandle<()>,
}

impl Reading {
    /// Starts the task with a reader that has just claimed the source.
    pub(super) fn start(
        source: Arc<dyn Source>,
        claim: Claim,
        reader: Box<dyn Reader>,
        settings: &Settings,
        doorbell: Doorbell,
    ) -> Self {
        let (wants, wanted) = mpsc::channel(1);
        let (found, pages) = mpsc::channel(1);
        let (claimed_now, claimed) = watch::channel(true);
        let source_name = source.name().to_owned();
        let pace = Pace::new(settings.poll_min, settings.idle_poll);
        let backoff = settings.backoff();
        let task = Task { source, claim, pace, backoff, doorbell, claimed: claimed_now };
        let task = tokio::spawn(task.run(reader, wanted, found));
        Self { source_name, wants, pages, claimed, asked: false, task }
    }

    /// Whether a request is under way.
    pub(super) fn asked(&self) -> bool {
        self.asked
    }

    /// Asks for rows; only when no request is under way.
    pub(super) fn ask(&mut self, want: Want) {
        // The channel has room for the one request that there is; a task that has ended says so in `news`.
        self.asked = self.wants.try_send(want).is_ok();
    }

    /// What the task has to say. Cancel safe.
    pub(super) async fn news(&mut self) -> Result<News, RelayError> {
        let page = tokio::select! {
            page = self.pages.recv() => page,
            // When the task has ended, its last page says why.
            Ok(()) = self.claimed.changed() => return Ok(News::ClaimChanged),
        };
        self.asked = false;
        let died = || RelayError::TaskDied { source_name: self.source_name.clone(), task: "reading" };
        Ok(page.ok_or_else(died)??.map_or(News::Superseded, News::Rows))
    }

    /// Whether the source is ours at this moment, as far as we know.
    pub(super) fn claimed(&self) -> bool {
        *self.claimed.borrow()
    }

    /// Ends the task, and with it the reader's connection and claim.
    pub(super) fn stop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    source: Arc<dyn Source>,
    claim: Claim,
    pace: Pace,
    backoff: Backoff,
    doorbell: Doorbell,
    claimed: watch::Sender<bool>,
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
            let ends = !matches!(page, Ok(Some(_)));
            if found.send(page).await.is_err() || ends {
                return;
            }
        }
    }

    /// Reads until there is something.
    async fn page(&mut self, reader: &mut Box<dyn Reader>, want: &Want) -> Page {
        loop {
            match reader.read(want).await {
                Ok(rows) if rows.is_empty() => self.pace.rest(&self.doorbell).await,
                Ok(rows) => {
                    self.pace.found();
                    return Ok(Some(rows));
                }
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => {
                    tracing::warn!(source = self.source.name(), %error, "reading failed; connecting again");
                    self.claimed.send_replace(false);
                    match self.reopen().await? {
                        Some(again) => *reader = again,
                        None => return Ok(None),
                    }
                    self.claimed.send_replace(true);
                }
            }
        }
    }

    /// A new reader, if the source is still ours.
    async fn reopen(&mut self) -> Result<Option<Box<dyn Reader>>, SourceError> {
        let mut attempts = 0;
        loop {
            match self.source.reader().await {
                Ok((claim, reader)) if claim == self.claim => return Ok(Some(reader)),
                Ok(_) => return Ok(None),
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

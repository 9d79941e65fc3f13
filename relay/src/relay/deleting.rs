//! The task that takes rows out of the outbox, on a connection of its own.
//!
//! It does one thing after the other and each until it is done: deleting, archiving and parking are harmless to repeat. Parking
//! and archiving are refused once another relay has taken over; what was confirmed is deleted even then.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

use super::{RelayError, Settings};
use crate::{
    archive::{After, Expired},
    failpoint::{self, Point},
    lane::{Park, RowId, backoff::Backoff},
    lease::Epoch,
    source::{OldTransaction, Released, Source, SourceError, Writer},
};

/// Batches that are handed to the task and not yet done: one at work, one ready.
const BATCHES_MAX: usize = 2;

enum Job {
    Delete(Vec<RowId>),
    Archive(Vec<RowId>),
    Expire(Duration, i64),
    Park(Vec<Park>),
    Look,
    Oldest,
}

/// What was done.
pub(super) enum Done {
    /// These rows have left the outbox.
    Gone(Vec<RowId>),
    /// What operators did to the parked rows.
    Looked(Released),
    /// How far the archive is free of what is too old.
    Expired(Expired),
    /// Who holds back vacuum for longest.
    Oldest(Option<OldTransaction>),
}

/// The session's end of it.
pub(super) struct Deleting {
    source_name: String,
    archives: bool,
    jobs: mpsc::Sender<Job>,
    done: mpsc::Receiver<Result<Done, SourceError>>,
    outstanding: usize,
    task: JoinHandle<()>,
}

impl Deleting {
    pub(super) fn start(
        source: Arc<dyn Source>,
        epoch: Epoch,
        writer: Box<dyn Writer>,
        settings: &Settings,
    ) -> Self {
        let (jobs, todo) = mpsc::channel(BATCHES_MAX);
        let (finished, done) = mpsc::channel(BATCHES_MAX);
        let source_name = source.name().to_owned();
        let task = Task { source, epoch, writer: Some(writer), backoff: settings.backoff() };
        let task = tokio::spawn(task.run(todo, finished));
        Self { source_name, archives: settings.after != After::Delete, jobs, done, outstanding: 0, task }
    }

    /// Whether confirmed rows are archived, which only the owner of the source may do.
    pub(super) fn archives(&self) -> bool {
        self.archives
    }

    /// Whether another batch may be handed over.
    pub(super) fn has_room(&self) -> bool {
        self.outstanding < BATCHES_MAX
    }

    /// Whether everything that was handed over is done.
    pub(super) fn idle(&self) -> bool {
        self.outstanding == 0
    }

    /// Deletes or archives confirmed rows. Only when there is room.
    pub(super) fn retire(&mut self, rows: Vec<RowId>) {
        self.hand_over(if self.archives { Job::Archive(rows) } else { Job::Delete(rows) });
    }

    /// Removes what has been in the archive for longer than `keep`, behind a position. Only when there is room.
    pub(super) fn expire(&mut self, keep: Duration, after: i64) {
        self.hand_over(Job::Expire(keep, after));
    }

    /// Only when there is room.
    pub(super) fn park(&mut self, rows: Vec<Park>) {
        self.hand_over(Job::Park(rows));
    }

    /// Looks what operators did. Only when there is room.
    pub(super) fn look(&mut self) {
        self.hand_over(Job::Look);
    }

    /// Looks who keeps deleted rows on their pages. Only when there is room.
    pub(super) fn oldest(&mut self) {
        self.hand_over(Job::Oldest);
    }

    fn hand_over(&mut self, job: Job) {
        self.outstanding += 1;
        // The channel has room for all that may be outstanding; a task that has ended says so in `done`.
        let _ = self.jobs.try_send(job);
    }

    /// What was done, or [`SourceError::Fenced`]: after that only deleting is done. Pends while nothing is outstanding. Cancel
    /// safe.
    pub(super) async fn done(&mut self) -> Result<Done, RelayError> {
        let done = self.done.recv().await;
        self.outstanding = self.outstanding.saturating_sub(1);
        let died = || RelayError::TaskDied { source_name: self.source_name.clone(), task: "deleting" };
        Ok(done.ok_or_else(died)??)
    }
}

impl Drop for Deleting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    source: Arc<dyn Source>,
    epoch: Epoch,
    writer: Option<Box<dyn Writer>>,
    backoff: Backoff,
}

impl Task {
    async fn run(mut self, mut todo: mpsc::Receiver<Job>, finished: mpsc::Sender<Result<Done, SourceError>>) {
        while let Some(job) = todo.recv().await {
            let done = self.until_done(&job).await;
            let ends = matches!(&done, Err(error) if !error.is_fenced());
            if finished.send(done).await.is_err() || ends {
                return;
            }
        }
    }

    async fn until_done(&mut self, job: &Job) -> Result<Done, SourceError> {
        let mut attempts = 0;
        loop {
            match self.once(job).await {
                Ok(done) => return Ok(done),
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => {
                    attempts += 1;
                    let pause = self.backoff.delay(attempts);
                    tracing::warn!(source = self.source.name(), %error, ?pause, "will try again");
                    self.writer = None;
                    sleep(pause).await;
                }
            }
        }
    }

    async fn once(&mut self, job: &Job) -> Result<Done, SourceError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            empty => empty.insert(self.source.writer().await?),
        };
        match job {
            Job::Delete(rows) => {
                let deleted = writer.delete(rows).await?;
                Ok(gone(self.source.name(), rows, deleted))
            }
            Job::Archive(rows) => {
                let archived = writer.archive(self.epoch, rows).await?;
                Ok(gone(self.source.name(), rows, archived))
            }
            Job::Expire(keep, after) => Ok(Done::Expired(writer.expire(self.epoch, *keep, *after).await?)),
            Job::Park(parks) => {
                writer.park(self.epoch, parks).await?;
                Ok(Done::Gone(parks.iter().map(|park| park.row).collect()))
            }
            Job::Look => Ok(Done::Looked(writer.released().await?)),
            Job::Oldest => Ok(Done::Oldest(writer.oldest().await?)),
        }
    }
}

/// These rows are no longer in the outbox, and so many of them were.
fn gone(source: &str, rows: &[RowId], were: u64) -> Done {
    failpoint::reached(Point::AfterMarkBeforeCommit);
    if were != rows.len() as u64 {
        tracing::debug!(source, asked = rows.len(), were, "some were gone already");
    }
    Done::Gone(rows.to_vec())
}

//! Takes the lease of a source and keeps it: carries out what the [`Contender`] decides.
//!
//! Called by the relay before a session, which then owns the [`Lease`]. A task renews it until it is released or lost. Every
//! call is bounded by a sixth of the lease, so that one that hangs leaves time for another before the deadline.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Candidate, Deadline, Epoch, Holder, Leases, Take,
    contender::{Contender, Next, Terms},
    sign,
};
use crate::{
    failpoint::{self, Point},
    source::{Source, SourceError},
};

/// The lease of a source, while it is kept. Dropping it stops renewing it, without a release.
#[derive(Debug)]
pub struct Lease {
    epoch: Epoch,
    deadline: Deadline,
    release: CancellationToken,
    keeping: JoinHandle<Result<(), SourceError>>,
    /// The task has ended, and was asked why.
    over: bool,
}

/// How long giving a lease back may take.
const RELEASE_BOUND: Duration = Duration::from_secs(10);

/// Why a lease is kept no more.
#[derive(Debug)]
pub enum Lost {
    /// [`SourceError::Fenced`], or an error that trying again cannot heal.
    To(SourceError),
    /// The task that renews it has died; this is a defect.
    Died,
}

impl Lease {
    /// Waits until the source is `candidate`'s, however long that takes; faults that may pass are waited out. None when told to
    /// stop meanwhile.
    ///
    /// # Errors
    /// What trying again cannot heal.
    pub async fn acquire(
        source: Arc<dyn Source>,
        candidate: Candidate,
        terms: Terms,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, SourceError> {
        let now = Instant::now();
        let contender = Contender::new(terms, candidate.process.clone(), now);
        let (moves, deadline) = watch::channel(now);
        let (connection, said, lapsed) = (None, String::new(), false);
        let mut keeper = Keeper { source, candidate, contender, terms, moves, connection, said, lapsed };
        let Some(epoch) = keeper.until_owner(stop).await? else { return Ok(None) };
        let release = CancellationToken::new();
        let keeping = tokio::spawn(keeper.keep(epoch, release.clone()));
        Ok(Some(Self { epoch, deadline: Deadline::new(deadline), release, keeping, over: false }))
    }

    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Until when its owner may publish.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.deadline.clone()
    }

    /// Returns when it is kept no more. Cancel safe; not to be asked again afterwards.
    pub async fn lost(&mut self) -> Lost {
        let ended = (&mut self.keeping).await;
        self.over = true;
        match ended {
            Ok(Err(error)) => Lost::To(error),
            // Only a release ends it well, and that consumes this value.
            Ok(Ok(())) | Err(_) => Lost::Died,
        }
    }

    /// Gives it back, within a bound: others may take over at once. When that fails they wait until it ends.
    pub async fn release(mut self) {
        self.release.cancel();
        if !self.over && timeout(RELEASE_BOUND, &mut self.keeping).await.is_err() {
            tracing::warn!("the lease could not be released in time: others wait until it ends");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

struct Keeper {
    source: Arc<dyn Source>,
    candidate: Candidate,
    contender: Contender,
    terms: Terms,
    moves: watch::Sender<Instant>,
    connection: Option<Box<dyn Leases>>,
    /// The last thing that went wrong or was waited for, so that it is said once.
    said: String,
    lapsed: bool,
}

#[derive(Clone, Copy)]
enum Ask {
    Look,
    Take(Take),
    Renew(Epoch),
    Release(Epoch),
}

enum Answer {
    Seen(Holder),
    Took(Option<Epoch>),
    Done,
}

impl Keeper {
    /// Looks and takes until the source is ours. None when told to stop meanwhile.
    async fn until_owner(&mut self, stop: &CancellationToken) -> Result<Option<Epoch>, SourceError> {
        let mut before = None;
        loop {
            if let Some(epoch) = self.contender.epoch() {
                self.tell_owner(epoch, before.as_ref());
                return Ok(Some(epoch));
            }
            let asked = Instant::now();
            let ask = match self.contender.next(asked) {
                Next::Look => Ask::Look,
                Next::Take(how) => Ask::Take(how),
                Next::Wait(until) => {
                    tokio::select! {
                        () = sleep_until(until.into()) => continue,
                        () = stop.cancelled() => return Ok(None),
                    }
                }
                Next::Renew(_) | Next::Over => return Ok(None),
            };
            match self.ask(ask).await? {
                Some(Answer::Seen(holder)) => {
                    self.contender.looked(&holder, sign::life(&holder.process), Instant::now());
                    self.tell_waiting(&holder);
                    before = Some(holder);
                }
                Some(Answer::Took(epoch)) => self.contender.took(epoch, asked),
                Some(Answer::Done) | None => {}
            }
        }
    }

    /// Renews the lease until it is released or lost.
    async fn keep(mut self, epoch: Epoch, release: CancellationToken) -> Result<(), SourceError> {
        loop {
            let asked = Instant::now();
            match self.contender.next(asked) {
                Next::Renew(epoch) => {
                    failpoint::reached(Point::LeaseRenew);
                    match self.ask(Ask::Renew(epoch)).await {
                        Ok(Some(_)) => self.renewed(asked),
                        Ok(None) => self.tell_lapsed(),
                        Err(error) => {
                            self.contender.refused();
                            return Err(error);
                        }
                    }
                }
                Next::Wait(until) => tokio::select! {
                    () = sleep_until(until.into()) => {}
                    () = release.cancelled() => return self.release(epoch).await,
                },
                Next::Look | Next::Take(_) | Next::Over => return Ok(()),
            }
        }
    }

    /// Twice, because the first time may only show that the connection is gone.
    async fn release(&mut self, epoch: Epoch) -> Result<(), SourceError> {
        for _ in 0..2 {
            if self.ask(Ask::Release(epoch)).await?.is_some() {
                tracing::info!(source = self.source.name(), %epoch, "released the outbox");
                return Ok(());
            }
        }
        tracing::warn!(source = self.source.name(), "the lease was not released: others wait until it ends");
        Ok(())
    }

    /// One call on the connection, or on a new one. None when no answer came in time; the contender knows.
    async fn ask(&mut self, what: Ask) -> Result<Option<Answer>, SourceError> {
        let bound = self.terms.answer_within();
        // Dropped with the call when it fails.
        let connection = self.connection.take();
        let error = match timeout(bound, self.call(connection, what)).await {
            Ok(Ok((connection, answer))) => {
                self.connection = Some(connection);
                return Ok(Some(answer));
            }
            Ok(Err(error)) if !error.is_transient() => return Err(error),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer about the lease within {bound:?}"),
        };
        self.contender.unanswered(Instant::now());
        if error != self.said {
            tracing::warn!(source = self.source.name(), "{error}; asking again");
            self.said = error;
        }
        Ok(None)
    }

    async fn call(
        &mut self,
        connection: Option<Box<dyn Leases>>,
        what: Ask,
    ) -> Result<(Box<dyn Leases>, Answer), SourceError> {
        let mut leases = match connection {
            Some(leases) => leases,
            None => self.source.leases(&self.candidate).await?,
        };
        let answer = match what {
            Ask::Look => Answer::Seen(leases.look().await?),
            Ask::Take(how) => Answer::Took(leases.take(how, self.terms.lease()).await?),
            Ask::Renew(epoch) => leases.renew(epoch, self.terms.lease()).await.map(|()| Answer::Done)?,
            Ask::Release(epoch) => leases.release(epoch).await.map(|()| Answer::Done)?,
        };
        Ok((leases, answer))
    }

    fn renewed(&mut self, asked: Instant) {
        self.contender.renewed(asked);
        self.tell_deadline();
        if std::mem::take(&mut self.lapsed) {
            tracing::info!(source = self.source.name(), "the lease is renewed: publishing goes on");
        }
        self.said.clear();
    }

    fn tell_deadline(&self) {
        if let Some(until) = self.contender.publish_until() {
            self.moves.send_replace(until);
        }
    }

    fn tell_owner(&self, epoch: Epoch, before: Option<&Holder>) {
        self.tell_deadline();
        let before = before.map_or_else(String::new, Holder::to_string);
        let (source, owner, lease) = (self.source.name(), &self.candidate.name, self.terms.lease());
        tracing::info!(source, owner, %epoch, ?lease, before, "took the lease");
    }

    fn tell_waiting(&mut self, holder: &Holder) {
        let who = format!("{} {}", holder.epoch, holder.owner);
        if matches!(self.contender.next(Instant::now()), Next::Take(_)) || who == self.said {
            return;
        }
        tracing::info!(
            source = self.source.name(),
            "another relay is working on its outbox: {holder}; waiting for it to stop, or for its lease to end"
        );
        self.said = who;
    }

    fn tell_lapsed(&mut self) {
        if !self.lapsed && Instant::now() >= *self.moves.borrow() {
            self.lapsed = true;
            let source = self.source.name();
            tracing::warn!(
                source,
                "the lease could not be renewed in time: nothing is published until it can"
            );
        }
    }
}

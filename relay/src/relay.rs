//! The loop that joins a source, the lanes and the sinks.
//!
//! One reader hands rows over in their order; the lanes say which of them may be in flight; the sinks publish them and
//! answer; confirmed rows are deleted or archived, hopeless ones parked. Reading, publishing and deleting run at the same time, each
//! bounded: a full window stops publishing, a full buffer stops reading. Nothing is deleted that was not confirmed, and no
//! database transaction is open while a broker is being waited for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use barid::{
    doorbell::{Address, Doorbell},
    transport::{Outcome, Token},
};
use tokio::{sync::watch, task::yield_now, time::sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    failpoint::{self, Point},
    lane::{Halted, Lanes, Stats},
    lease::{
        Candidate, Deadline,
        keeper::{Lease, Lost},
        sign::Sign,
    },
    metrics::meter::{Meter, Owning},
    sink::{self, OpenSink, Routes, Sink},
    source::Source,
};

mod builder;
mod complain;
mod deleting;
mod draining;
mod error;
mod horizon;
mod intake;
mod keeping;
mod opening;
mod reading;
mod retiring;
#[cfg(test)]
mod tests;
mod waking;
mod watching;

pub use self::{
    builder::{BuildError, RelayBuilder, Settings},
    error::RelayError,
};
use self::{
    complain::Complaints,
    deleting::{Deleting, Done},
    horizon::Horizon,
    keeping::Keeping,
    reading::Reading,
    watching::Watch,
};

/// Publishes the outbox of one source until it is told to stop.
#[derive(Debug)]
pub struct Relay {
    source: Arc<dyn Source>,
    sinks: Vec<Sink>,
    routes: Routes,
    settings: Settings,
    instance: String,
    doorbell: Doorbell,
    doorbell_at: Option<Address>,
    stats: watch::Sender<Stats>,
    meter: Arc<Meter>,
}

/// How often it is looked how it stands with the brokers while nothing else happens: whoever asks for metrics asks hardly more often.
const IDLE_LOOK: Duration = Duration::from_secs(5);

/// Why a session ended without an error.
enum End {
    Stopped,
    /// An operator released parked rows: they are put back where they were, and read with what is behind them.
    Released,
    /// Nothing more can be done until somebody decides.
    Halted(Halted),
}

impl Relay {
    /// Starts to build a relay for `source`.
    pub fn builder(source: Arc<dyn Source>) -> RelayBuilder {
        RelayBuilder::new(source)
    }

    /// Rung after a commit, it makes the relay look at the outbox at once instead of at its next poll.
    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        self.doorbell.clone()
    }

    /// The counters, as they change.
    #[must_use]
    pub fn stats(&self) -> watch::Receiver<Stats> {
        self.stats.subscribe()
    }

    /// What is counted while it works.
    #[must_use]
    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    /// Works until `shutdown` completes; then stops reading, waits a bounded time for the answers of what is in flight, and
    /// deletes what was confirmed. Faults that may pass are waited out.
    ///
    /// Dropping the future stops at once, as a crash would: rows in flight are published again by the next run.
    ///
    /// # Errors
    /// [`RelayError`] when waiting cannot help.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<Stats, RelayError> {
        let stop = CancellationToken::new();
        let signal = async {
            shutdown.await;
            stop.cancel();
            std::future::pending().await
        };
        tokio::select! {
            ended = self.supervise(&stop) => ended,
            never = signal => match never {},
            never = waking::wake(&self) => match never {},
        }
    }

    async fn supervise(&self, stop: &CancellationToken) -> Result<Stats, RelayError> {
        // It is seen for as long as anything here may publish.
        let sign = Sign::show();
        let candidate = Candidate { name: self.instance.clone(), process: sign.process().to_owned() };
        while let Some(session) = Box::pin(opening::open(self, &candidate, stop)).await? {
            match Box::pin(session.run(stop)).await {
                Ok(End::Stopped) => break,
                Ok(End::Halted(Halted { row, reason })) => {
                    let source_name = self.source.name().to_owned();
                    return Err(RelayError::Halted { source_name, seq: row.seq, id: row.id, reason });
                }
                Ok(End::Released) => {
                    tracing::info!(
                        source = self.source.name(),
                        "parked messages were released; starting afresh"
                    );
                }
                // What this one remembers is no longer true: it waits for its turn.
                Err(error) if error.is_fenced() => tracing::warn!("{error}; starting afresh"),
                Err(error) => return Err(error),
            }
        }
        Ok(*self.stats.borrow())
    }
}

/// A relay at work, between taking the lease of its source and losing or releasing it.
struct Session<'a> {
    relay: &'a Relay,
    lease: Lease,
    deadline: Deadline,
    /// The same, for waiting until it has passed; and whether it has.
    lapses: Deadline,
    lapsed: bool,
    /// Another relay has taken over: only confirmed rows are still deleted.
    fenced: bool,
    lanes: Lanes,
    routes: Routes,
    sinks: Vec<OpenSink>,
    reading: Reading,
    deleting: Deleting,
    /// Since when confirmed rows have been waiting for more to be deleted together with.
    unretired_since: Option<Instant>,
    watch: Watch,
    horizon: Horizon,
    keeping: Keeping,
    complaints: Complaints,
    /// As long as the session lives, the meter says that the source is this relay's.
    _owning: Owning,
}

impl Session<'_> {
    async fn run(mut self, stop: &CancellationToken) -> Result<End, RelayError> {
        let mut ended = self.work(stop).await;
        if matches!(&ended, Err(error) if error.is_fenced()) {
            self.fenced = true;
            self.sinks.iter_mut().for_each(|sink| sink.publisher.give_up());
            self.drain().await?;
        } else if ended.is_ok() {
            ended = self.drain().await.and(ended);
        }
        if !self.fenced {
            self.lease.release().await;
        }
        ended
    }

    async fn work(&mut self, stop: &CancellationToken) -> Result<End, RelayError> {
        loop {
            self.lanes.wake(Instant::now());
            // First of all: the database reads while this publishes. The task that was just woken is next on this thread, where no
            // other thread takes it away, so it begins only when this one gives way.
            if self.ask_for_more() {
                yield_now().await;
            }
            self.publish();
            if self.retire(false) {
                yield_now().await;
            }
            self.look();
            self.relay.meter.look(&self.lanes, self.sinks.iter().map(|sink| sink.publisher.link()));
            self.relay.stats.send_if_modified(|stats| {
                let changed = *stats != self.lanes.stats();
                *stats = self.lanes.stats();
                changed
            });
            let wake = self.next_wake();
            tokio::select! {
                page = self.reading.rows() => {
                    let (asked, at, rows) = page?;
                    self.take(asked, at, rows);
                }
                lost = self.lease.lost() => return Err(self.lost(lost)),
                () = self.deadline.moved() => self.lapsed = false,
                () = self.lapses.passed(), if !self.lapsed => {
                    self.lapsed = true;
                    self.sinks.iter_mut().for_each(|sink| sink.publisher.give_up());
                }
                (sink, outcomes) = sink::settled(&mut self.sinks) => self.settle(sink, outcomes),
                done = self.deleting.done() => match done? {
                    Done::Gone(rows) => self.lanes.gone(rows),
                    Done::Oldest(oldest) => self.complain_about(oldest),
                    Done::Expired(expired) => self.keeping.went(expired, Instant::now()),
                    Done::Looked(seen) => {
                        let parking = self.lanes.parks_waiting() > 0 || !self.deleting.idle();
                        if self.watch.released(seen, parking) {
                            return Ok(End::Released);
                        }
                    }
                },
                () = sleep_until(wake.into()) => {}
                () = stop.cancelled() => return Ok(End::Stopped),
            }
            if let Some(halted) = self.lanes.halted().cloned() {
                return Ok(End::Halted(halted));
            }
        }
    }

    fn lost(&self, lost: Lost) -> RelayError {
        match lost {
            Lost::To(error) => error.into(),
            Lost::Died => {
                RelayError::TaskDied { source_name: self.relay.source.name().to_owned(), task: "lease" }
            }
        }
    }

    /// Hands every row that may be in flight to its sink, while its window has room and the lease allows it.
    fn publish(&mut self) {
        for (at, sink) in self.sinks.iter_mut().enumerate() {
            for started in 0_usize.. {
                let Some((token, row)) = self.lanes.ready(at) else { break };
                if started == 1 {
                    failpoint::reached(Point::MidBatch);
                }
                failpoint::reached(Point::BeforePublish);
                // Before every row: this process may have been stopped since the last one.
                if self.deadline.is_over(Instant::now()) {
                    return;
                }
                if sink.publisher.submit(row, token).is_err() {
                    break;
                }
                self.lanes.started(token);
                if let Some(mark) = self.lanes.mark(token) {
                    self.relay.meter.published(mark);
                }
                failpoint::reached(Point::AfterPublishBeforeConfirm);
            }
        }
    }

    fn settle(&mut self, sink: usize, outcomes: Vec<(Token, Outcome)>) {
        let now = Instant::now();
        for (token, outcome) in outcomes {
            match &outcome {
                Outcome::Confirmed => failpoint::reached(Point::AfterConfirmBeforeMark),
                Outcome::Transient(reason) | Outcome::Unknown(reason) => {
                    self.complaints.retrying(&self.sinks[sink].name, reason, now);
                }
                Outcome::Permanent(reason) => self.complaints.parking(&self.sinks[sink].name, reason, now),
            }
            if let Some(mark) = self.lanes.mark(token) {
                self.relay.meter.settled(sink, mark, &outcome, now);
            }
            self.lanes.settle(token, outcome, now);
        }
    }

    fn next_wake(&self) -> Instant {
        // How it stands with the brokers is looked at now and then, also when nothing happens.
        let idle = Instant::now() + IDLE_LOOK;
        let deletes = self.unretired_since.filter(|_| self.deleting.has_room());
        let deletes = deletes.map(|since| since + self.relay.settings.delete_wait);
        let look =
            self.watch.next().into_iter().chain(self.keeping.next()).chain([self.horizon.next()]).min();
        let look = look.filter(|_| self.deleting.has_room());
        [self.lanes.next_wake(), deletes, look].into_iter().flatten().min().unwrap_or(idle)
    }
}

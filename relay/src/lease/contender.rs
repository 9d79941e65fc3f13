//! When to ask for the lease, when to publish, when to take over: decisions without I/O and without a clock.
//!
//! The [`keeper`](super::keeper) asks [`Contender::next`] what to do, does it, and tells the answer together with the instants
//! before it asked and after it was answered. All instants are of one monotonic clock.
//!
//! 1. The owner publishes until two thirds of the lease after it *asked* for what it was granted last: the database counts from
//!    later, so its lease ends later.
//! 2. It asks for a renewal a third after that, and without an answer again and again, also beyond its deadline: as long as
//!    nobody took over, the lease can be renewed.
//! 3. A refusal is final for the epoch.
//! 4. Who waits takes over at once what was released, what nobody has had yet, and what a dead owner or itself has had; anything
//!    else when the database says that the lease has ended and it has *watched* the lease for its whole length without a renewal,
//!    counted from after it first saw it.
//! 5. An answer that did not come changes nothing: what was asked for may have been granted, and is seen by the next look.

use std::time::{Duration, Instant};

use barid::limits::CALL_TIMEOUT;

use super::{Epoch, Holder, Take, sign::Life};

/// The times that follow from the length of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    lease: Duration,
}

impl Terms {
    /// The terms of a lease of this length.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self { lease }
    }

    /// Its length.
    #[must_use]
    pub fn lease(self) -> Duration {
        self.lease
    }

    /// How long after asking the owner may publish.
    #[must_use]
    pub fn publish_for(self) -> Duration {
        self.lease * 2 / 3
    }

    /// How long after asking the owner asks again.
    #[must_use]
    pub fn renew_after(self) -> Duration {
        self.lease / 3
    }

    /// How long an answer is waited for: a question that hangs can be asked again before the deadline. Never so short that a
    /// busy database could not answer at all.
    #[must_use]
    pub fn answer_within(self) -> Duration {
        (self.lease / 6).clamp(Duration::from_secs(1), CALL_TIMEOUT)
    }

    /// How long after a look, or after an answer that did not come, the next one is due.
    #[must_use]
    pub fn look_again(self) -> Duration {
        (self.lease / 15).min(Duration::from_secs(1))
    }
}

/// What the contender wants to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// [`Leases::look`](super::Leases::look), then [`Contender::looked`].
    Look,
    /// [`Leases::take`](super::Leases::take), then [`Contender::took`].
    Take(Take),
    /// [`Leases::renew`](super::Leases::renew), then [`Contender::renewed`] or [`Contender::refused`].
    Renew(Epoch),
    /// Nothing before this.
    Wait(Instant),
    /// Nothing any more: somebody else took over.
    Over,
}

/// One relay that wants to own a source.
#[derive(Clone, Debug)]
pub struct Contender {
    terms: Terms,
    process: String,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Waiting { watched: Option<Watched>, look_at: Instant, take: Option<Take> },
    Owning { epoch: Epoch, publish_until: Instant, ask_at: Instant },
    Over,
}

/// A lease that was seen, and since when it has been the same.
#[derive(Clone, Copy, Debug)]
struct Watched {
    epoch: Epoch,
    renewals: i64,
    since: Instant,
}

impl Contender {
    /// One that waits; `process` is what the database knows it by.
    #[must_use]
    pub fn new(terms: Terms, process: impl Into<String>, now: Instant) -> Self {
        let state = State::Waiting { watched: None, look_at: now, take: None };
        Self { terms, process: process.into(), state }
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self, now: Instant) -> Next {
        match &self.state {
            State::Waiting { take: Some(take), .. } => Next::Take(*take),
            State::Waiting { look_at, .. } if now >= *look_at => Next::Look,
            State::Owning { epoch, ask_at, .. } if now >= *ask_at => Next::Renew(*epoch),
            State::Waiting { look_at: at, .. } | State::Owning { ask_at: at, .. } => Next::Wait(*at),
            State::Over => Next::Over,
        }
    }

    /// The epoch that this one owns, as far as it knows.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        match self.state {
            State::Owning { epoch, .. } => Some(epoch),
            _ => None,
        }
    }

    /// Until when it may publish.
    #[must_use]
    pub fn publish_until(&self) -> Option<Instant> {
        match self.state {
            State::Owning { publish_until, .. } => Some(publish_until),
            _ => None,
        }
    }

    /// The answer to a look: who has the source, and what can be seen of its life.
    pub fn looked(&mut self, holder: &Holder, life: Life, now: Instant) {
        let State::Waiting { watched, look_at, take } = &mut self.state else { return };
        let same =
            |watched: &&mut Watched| (watched.epoch, watched.renewals) == (holder.epoch, holder.renewals);
        let since = match watched.as_mut().filter(same) {
            Some(watched) => watched.since,
            None => now,
        };
        *watched = Some(Watched { epoch: holder.epoch, renewals: holder.renewals, since });
        *look_at = now + self.terms.look_again();
        let free = holder.released() || holder.process == self.process;
        let watched_long_enough = now >= since + holder.lease;
        let expired = holder.left.is_zero() && watched_long_enough;
        // More than it can have: the database's clock was set back, and only what was watched counts.
        let set_back = holder.left > holder.lease && watched_long_enough;
        let early = life == Life::Gone || set_back;
        if free || expired || early {
            *take = Some(Take { over: holder.epoch, renewals: holder.renewals, early });
        }
    }

    /// The answer to a take: the new epoch, or none when somebody else was quicker.
    pub fn took(&mut self, epoch: Option<Epoch>, asked: Instant) {
        let State::Waiting { take, .. } = &mut self.state else { return };
        *take = None;
        if let Some(epoch) = epoch {
            self.own(epoch, asked);
        }
    }

    /// The lease was renewed.
    pub fn renewed(&mut self, asked: Instant) {
        if let Some(epoch) = self.epoch() {
            self.own(epoch, asked);
        }
    }

    /// The epoch is no longer the newest.
    pub fn refused(&mut self) {
        self.state = State::Over;
    }

    /// No answer came: it is unknown whether it was done.
    pub fn unanswered(&mut self, now: Instant) {
        let again = now + self.terms.look_again();
        match &mut self.state {
            State::Waiting { look_at, take, .. } => (*look_at, *take) = (again, None),
            State::Owning { ask_at, .. } => *ask_at = again,
            State::Over => {}
        }
    }

    fn own(&mut self, epoch: Epoch, asked: Instant) {
        self.state = State::Owning {
            epoch,
            publish_until: asked + self.terms.publish_for(),
            ask_at: asked + self.terms.renew_after(),
        };
    }
}

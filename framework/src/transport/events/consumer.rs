//! Reads a subscription: claims it, reads pages behind its checkpoint, hands events out, writes how far it is.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Notify, task::JoinHandle, time::Instant};
use uuid::Uuid;

use super::{desk::Desk, failed};
use crate::{
    backoff::Progress,
    event_store::{EventStore, EventStoreError, RecordedEvent, Slice},
    headers, limits,
    message::first_segment,
    store::{backend::Backend, events::checkpoint::Claimed},
    transport::{Consumer, Delivery, Inbox, Repeat, Settlement, TransportError},
};

pub(super) struct EventConsumer<DB: Backend> {
    store: EventStore<DB>,
    subscription: String,
    owner: Uuid,
    lease: Duration,
    prefetch: usize,
    shared: Arc<Shared>,
    /// Until when the subscription is ours, by the local clock, counted from before the claim was sent. `None`: it is not.
    ours_until: Option<Instant>,
    /// The position that was written last, and when the next one is.
    written: u64,
    write_at: Instant,
    /// A look that is under way. A task of its own, so that a dropped `receive` leaves nothing half done.
    looking: Option<JoinHandle<Result<Look, EventStoreError>>>,
    poll: Progress,
    look_at: Instant,
    answered: Instant,
}

#[derive(Default)]
struct Shared {
    desk: Mutex<Desk>,
    settled: Notify,
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Every change of it is one call.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a look has come to.
struct Look {
    /// When it began.
    at: Instant,
    /// It was claimed just now.
    claimed: Option<Claimed>,
    /// Somebody else owns it.
    lost: bool,
    /// What was written.
    written: Option<u64>,
    events: Vec<RecordedEvent>,
}

/// What a look has to do.
struct Task {
    claim: bool,
    write: Option<u64>,
    after: u64,
    max: u32,
}

impl<DB: Backend> EventConsumer<DB> {
    pub(super) fn new(store: EventStore<DB>, inbox: &Inbox, lease: Duration) -> Self {
        let now = Instant::now();
        Self {
            store,
            subscription: inbox.queue.clone(),
            owner: Uuid::now_v7(),
            lease,
            prefetch: usize::from(inbox.prefetch.max(1)),
            shared: Arc::default(),
            ours_until: None,
            written: 0,
            write_at: now,
            looking: None,
            poll: inbox.poll.start(),
            look_at: now,
            answered: now,
        }
    }

    /// What is to be done now, if anything.
    fn task(&self, now: Instant) -> Option<Task> {
        if self.ours_until.is_none() {
            return (now >= self.look_at).then_some(Task { claim: true, write: None, after: 0, max: 0 });
        }
        let desk = self.shared.desk();
        let max = if self.has_room(&desk) && now >= self.look_at { limits::EVENTS_PAGE } else { 0 };
        let write = (now >= self.write_at).then(|| desk.low());
        (max > 0 || write.is_some()).then_some(Task { claim: false, write, after: desk.read(), max })
    }

    fn has_room(&self, desk: &Desk) -> bool {
        desk.waiting() < self.prefetch && desk.ahead() < limits::EVENT_FEED_AHEAD_MAX
    }

    /// When there is something to do again, unless something is settled before; `due` is when an event may come again.
    fn wake_at(&self, due: Option<Instant>) -> Instant {
        if self.ours_until.is_none() {
            return self.look_at;
        }
        let look_at = Some(self.look_at).filter(|_| self.has_room(&self.shared.desk()));
        [look_at, due].into_iter().flatten().fold(self.write_at, Instant::min)
    }

    fn look(&self, task: Task) -> JoinHandle<Result<Look, EventStoreError>> {
        let (store, subscription) = (self.store.clone(), self.subscription.clone());
        let (owner, lease) = (self.owner, self.lease);
        tokio::spawn(async move {
            let mut look =
                Look { at: Instant::now(), claimed: None, lost: false, written: None, events: Vec::new() };
            if task.claim {
                look.claimed = store.claim(&subscription, owner, lease).await?;
                look.lost = look.claimed.is_none();
                return Ok(look);
            }
            if let Some(position) = task.write {
                look.lost = !store.keep(&subscription, owner, position, Some(lease)).await?;
                look.written = Some(position);
            }
            if task.max > 0 && !look.lost {
                look.events = store.read_all(Slice::forward().after(task.after).max(task.max)).await?.events;
            }
            Ok(look)
        })
    }

    fn looked(&mut self, look: Look) {
        self.answered = Instant::now();
        let mut desk = self.shared.desk();
        if look.lost {
            if self.ours_until.take().is_some() {
                tracing::warn!(
                    subscription = self.subscription,
                    "another instance has taken the subscription"
                );
                desk.start(0, 0);
            }
            self.look_at = self.answered + self.lease / 3;
            return;
        }
        if let Some(Claimed { position, last }) = look.claimed {
            desk.start(position, last);
            self.written = position;
            self.look_at = self.answered;
        }
        if look.claimed.is_some() || look.written.is_some() {
            self.ours_until = Some(look.at + self.lease);
            self.written = look.written.unwrap_or(self.written);
            self.write_at = self.answered + self.lease / 3;
        }
        let found = !look.events.is_empty();
        look.events.into_iter().for_each(|event| desk.push(event));
        if found {
            self.poll.reset();
            self.look_at = self.answered;
        } else if look.claimed.is_none() && self.look_at <= self.answered {
            self.look_at = self.answered + self.poll.pause();
        }
    }

    /// The next event that may be handed out; otherwise when one may come again.
    fn next(&mut self) -> Result<Delivery, Option<Instant>> {
        let now = Instant::now();
        let mut desk = self.shared.desk();
        if self.ours_until.is_none_or(|until| until <= now) {
            // Somebody else may have it. What is looked up next tells.
            return Err(None);
        }
        if desk.low() > self.written {
            self.write_at = self.write_at.min(now + limits::EVENT_CHECKPOINT_PAUSE);
        }
        let term = desk.term;
        match desk.next(now) {
            Ok((event, repeat)) => Ok(delivery(&self.shared, &self.subscription, term, event, repeat)),
            Err(due) => Err(due),
        }
    }
}

fn delivery(
    shared: &Arc<Shared>,
    subscription: &str,
    term: u64,
    event: RecordedEvent,
    repeat: Repeat,
) -> Delivery {
    let mut all = event.headers.clone();
    all.set(headers::ID, event.id.to_string());
    all.set(headers::TYPE, &*event.name);
    all.set(headers::KEY, &*event.stream);
    all.set(headers::AGGREGATE, first_segment(&event.name));
    // An event: a bus without a handler for it has nothing to do with it.
    all.set(headers::TOPIC, first_segment(&event.name));
    all.set(headers::EVENT_VERSION, event.version.to_string());
    all.set(headers::EVENT_POSITION, event.position.unwrap_or_default().to_string());
    Delivery {
        headers: all,
        body: event.data.clone(),
        source: subscription.to_owned(),
        repeat,
        settlement: Box::new(EventSettlement { shared: Arc::clone(shared), term, event: Some(event) }),
    }
}

#[async_trait]
impl<DB: Backend> Consumer for EventConsumer<DB> {
    async fn receive(&mut self) -> Result<Delivery, TransportError> {
        loop {
            let shared = Arc::clone(&self.shared);
            let settled = shared.settled.notified();
            tokio::pin!(settled);
            // Registered before looking, so that what is settled in between is not missed.
            settled.as_mut().enable();
            let due = match self.next() {
                Ok(delivery) => return Ok(delivery),
                Err(due) => due,
            };
            if self.looking.is_none() {
                self.looking = self.task(Instant::now()).map(|task| self.look(task));
            }
            let wake_at = self.wake_at(due);
            let Some(looking) = &mut self.looking else {
                tokio::select! {
                    () = settled => {}
                    () = tokio::time::sleep_until(wake_at) => {}
                }
                continue;
            };
            tokio::select! {
                () = settled => continue,
                looked = &mut *looking => {
                    self.looking = None;
                    match looked {
                        Ok(Ok(look)) => self.looked(look),
                        Ok(Err(error)) => return Err(failed(&error)),
                        Err(panicked) => return Err(TransportError::Database(panicked.to_string())),
                    }
                }
            }
        }
    }

    fn silent_for(&mut self) -> Option<Duration> {
        Some(self.answered.elapsed())
    }

    async fn close(mut self: Box<Self>) -> Result<(), TransportError> {
        if let Some(looking) = self.looking.take() {
            // Whatever it found is read again by whoever comes next.
            drop(looking.await);
        }
        if self.ours_until.is_none() {
            return Ok(());
        }
        let position = self.shared.desk().low();
        let kept = self.store.keep(&self.subscription, self.owner, position, None).await;
        kept.map(drop).map_err(|error| failed(&error))
    }
}

struct EventSettlement {
    shared: Arc<Shared>,
    term: u64,
    /// Taken when it was settled.
    event: Option<RecordedEvent>,
}

#[async_trait]
impl Settlement for EventSettlement {
    async fn ack(mut self: Box<Self>) -> Result<(), TransportError> {
        if let Some(position) = self.event.take().and_then(|event| event.position) {
            self.shared.desk().ack(self.term, position);
            self.shared.settled.notify_one();
        }
        Ok(())
    }

    async fn nack(mut self: Box<Self>, after: Duration) -> Result<(), TransportError> {
        if let Some(event) = self.event.take() {
            self.shared.desk().nack(self.term, event, Instant::now().checked_add(after));
            self.shared.settled.notify_one();
        }
        Ok(())
    }
}

impl Drop for EventSettlement {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            self.shared.desk().nack(self.term, event, None);
            self.shared.settled.notify_one();
        }
    }
}

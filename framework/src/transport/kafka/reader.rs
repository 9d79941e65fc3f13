//! The thread that owns a Kafka consumer.
//!
//! librdkafka calls back into the thread that polls: rebalances, commits and their network waits all happen here, on a
//! thread of their own, and never on an async thread. It polls all the time, paused or not, so a slow handler neither
//! delays a rebalance nor costs the membership of the group.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rdkafka::{
    ClientContext, Message as _, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult},
    message::BorrowedMessage,
    types::RDKafkaErrorCode as Code,
};
use tokio::sync::Notify;

use super::{
    client::{locked, log_line},
    desk::{Desk, Place},
    interest::Interest,
    settings::Settings,
    wire,
};
use crate::{
    limits,
    transport::{Inbox, TransportError},
};

/// The longest that a poll waits: how quickly closing, resuming and committing are noticed.
const POLL: Duration = Duration::from_millis(50);
/// How long the question for the end of a partition may take.
const END_WAIT: Duration = Duration::from_secs(5);

/// What the thread, the consumer and its settlements share.
pub(super) struct Shared {
    pub(super) settings: Arc<Settings>,
    /// What the group reads beyond its inbox.
    pub(super) interest: Arc<Interest>,
    pub(super) desk: Mutex<Desk>,
    /// Something lies on the desk.
    pub(super) news: Notify,
    /// The thread has ended.
    pub(super) finished: Notify,
}

/// Makes a consumer, subscribes it, and starts its thread.
pub(super) fn start(shared: &Arc<Shared>, inbox: &Inbox) -> Result<(), TransportError> {
    let settings = &shared.settings;
    let client: BaseConsumer<Callbacks> = settings
        .consumer_config(&inbox.queue)
        .create_with_context(Callbacks { shared: Arc::clone(shared) })
        .map_err(|error| settings.config_error(&error))?;
    let interest = shared.interest.version();
    subscribe(&client, shared, inbox).map_err(|error| settings.config_error(&error))?;
    let inbox = inbox.clone();
    let shared = Arc::clone(shared);
    let broker = settings.brokers.clone();
    let thread = std::thread::Builder::new().name("barid-kafka".to_owned());
    let spawned = thread.spawn(move || {
        let goodbye = Goodbye(Arc::clone(&shared));
        let committed_at = Instant::now();
        Reader { client, shared, inbox, interest, paused: false, committed_at, closing_since: None }.run();
        drop(goodbye);
    });
    spawned.map(drop).map_err(|error| TransportError::Lost { broker, cause: error.to_string() })
}

fn subscribe(client: &BaseConsumer<Callbacks>, shared: &Shared, inbox: &Inbox) -> KafkaResult<()> {
    let topics = shared.interest.topics(inbox);
    client.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Says that the thread ended, also when it panicked.
struct Goodbye(Arc<Shared>);

impl Drop for Goodbye {
    fn drop(&mut self) {
        let mut desk = locked(&self.0.desk);
        desk.revoke_all();
        desk.finished = true;
        drop(desk);
        self.0.finished.notify_waiters();
        self.0.news.notify_one();
    }
}

struct Reader {
    client: BaseConsumer<Callbacks>,
    shared: Arc<Shared>,
    inbox: Inbox,
    /// The version of the interest that the client subscribed with.
    interest: u64,
    paused: bool,
    committed_at: Instant,
    closing_since: Option<Instant>,
}

impl Reader {
    fn run(mut self) {
        while !self.is_done() {
            self.follow_interest();
            self.pause_or_resume();
            match self.client.poll(POLL) {
                None => {}
                Some(Ok(record)) => self.shared.put(&record),
                Some(Err(error)) => {
                    let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
                    self.shared.report(&error);
                    if fatal {
                        return;
                    }
                }
            }
            if self.committed_at.elapsed() >= self.shared.settings.commit_interval {
                self.commit(CommitMode::Async);
                self.committed_at = Instant::now();
            }
        }
        self.commit_last();
        // Dropping the client leaves the group.
    }

    /// Commits what was handled before leaving, again when the coordinator does not take it at once.
    fn commit_last(&self) {
        let deadline = Instant::now() + self.shared.settings.close_timeout / 2;
        locked(&self.shared.desk).untell_all();
        while !self.commit(CommitMode::Sync) && Instant::now() < deadline {
            // Serves rebalances meanwhile; a message that comes out of it is ignored by the closed desk.
            drop(self.client.poll(POLL));
        }
    }

    /// Closing waits for what is handed out: a handler that finishes in its grace time still gets its position committed.
    fn is_done(&mut self) -> bool {
        let desk = locked(&self.shared.desk);
        if !desk.closing {
            return false;
        }
        let since = *self.closing_since.get_or_insert_with(Instant::now);
        desk.is_settled() || since.elapsed() >= limits::STOP_GRACE
    }

    fn follow_interest(&mut self) {
        let version = self.shared.interest.version();
        if version == self.interest {
            return;
        }
        match subscribe(&self.client, &self.shared, &self.inbox) {
            Ok(()) => self.interest = version,
            Err(error) => self.shared.report(&error),
        }
    }

    fn pause_or_resume(&mut self) {
        let (wants_more, reassigned) = {
            let mut desk = locked(&self.shared.desk);
            (desk.wants_more(), std::mem::take(&mut desk.reassigned))
        };
        // A partition that was paused when it was taken away is still paused when it comes back.
        if wants_more != self.paused && !reassigned {
            return;
        }
        let changed = self
            .client
            .assignment()
            .and_then(|all| if wants_more { self.client.resume(&all) } else { self.client.pause(&all) });
        match changed {
            Ok(()) => self.paused = !wants_more,
            Err(error) => tracing::warn!(%error, "cannot pause or resume a Kafka consumer"),
        }
    }

    fn commit(&self, mode: CommitMode) -> bool {
        let positions = locked(&self.shared.desk).tell();
        commit(&self.client, &self.shared, &positions, mode)
    }
}

/// Commits positions. Those that are not taken are told again.
fn commit(
    client: &BaseConsumer<Callbacks>,
    shared: &Shared,
    positions: &[(Place, i64)],
    mode: CommitMode,
) -> bool {
    if positions.is_empty() {
        return true;
    }
    let mut list = TopicPartitionList::with_capacity(positions.len());
    let added: KafkaResult<()> = positions.iter().try_for_each(|((topic, partition), position)| {
        list.add_partition_offset(topic, *partition, Offset::Offset(*position))
    });
    let committed = added.and_then(|()| client.commit(&list, mode));
    if let Err(error) = &committed {
        tracing::warn!(%error, "cannot commit positions to Kafka; a crash now would repeat messages");
        let mut desk = locked(&shared.desk);
        positions.iter().for_each(|(place, _)| desk.untell(place));
    }
    committed.is_ok()
}

impl Shared {
    fn put(&self, record: &BorrowedMessage<'_>) {
        let place: Place = (Arc::from(record.topic()), record.partition());
        let headers = wire::headers_of(record);
        let body = record.payload().map_or_else(Bytes::new, Bytes::copy_from_slice);
        locked(&self.desk).receive(&place, record.offset(), record.key(), headers, body);
        self.news.notify_one();
    }

    /// Tells the consumer's user about what librdkafka does not settle by itself.
    fn report(&self, error: &KafkaError) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let heals = matches!(
            code,
            Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut | Code::PartitionEOF
        );
        if heals {
            tracing::info!(%error, "Kafka consumer");
            return;
        }
        let text = self.settings.redacted(&error.to_string());
        locked(&self.desk).fail(wire::transport_error(&self.settings.brokers, code, &text, true));
        self.news.notify_one();
    }
}

/// What librdkafka calls back, on the reader's thread.
struct Callbacks {
    shared: Arc<Shared>,
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log_line(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The same error also comes out of poll(), where it is handled.
        tracing::debug!(%error, reason, "Kafka consumer");
    }
}

impl ConsumerContext for Callbacks {
    fn pre_rebalance(&self, client: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => self.assign(client, list),
            Rebalance::Revoke(list) => self.revoke(client, list),
            Rebalance::Error(error) => tracing::warn!(%error, "Kafka rebalance"),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, list: &TopicPartitionList) {
        let Err(error) = result else { return };
        if error.rdkafka_error_code() == Some(Code::NoOffset) {
            return;
        }
        tracing::warn!(%error, "Kafka did not take positions");
        let mut desk = locked(&self.shared.desk);
        places(list).for_each(|place| desk.untell(&place));
    }
}

impl Callbacks {
    /// Looks up where each partition ends before it is read: whatever lies below may have been handed out before.
    fn assign(&self, client: &BaseConsumer<Self>, list: &TopicPartitionList) {
        for place in places(list) {
            let end = client.fetch_watermarks(&place.0, place.1, END_WAIT).map_or_else(
                |error| {
                    tracing::warn!(%error, topic = %place.0, partition = place.1, "end of the partition unknown");
                    i64::MAX
                },
                |(_, end)| end,
            );
            locked(&self.shared.desk).assign(place, end);
        }
    }

    /// Gives partitions up first, so that no answer can arrive between the last position and its commit.
    fn revoke(&self, client: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let positions: Vec<(Place, i64)> = {
            let mut desk = locked(&self.shared.desk);
            places(list).filter_map(|place| desk.revoke(&place).map(|position| (place, position))).collect()
        };
        if !client.assignment_lost() {
            commit(client, &self.shared, &positions, CommitMode::Sync);
        }
    }
}

fn places(list: &TopicPartitionList) -> impl Iterator<Item = Place> {
    list.elements().into_iter().map(|element| (Arc::from(element.topic()), element.partition()))
}

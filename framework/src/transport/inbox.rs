//! What a bus reads from: a queue, its topics, and how it is read.

use crate::{backoff::Backoff, limits};

/// What a bus reads from.
#[derive(Clone, Debug)]
pub struct Inbox {
    /// The queue's name; on Kafka the consumer group, and a topic of this name for what is sent to `queue:NAME`.
    pub queue: String,
    /// Topics whose messages arrive in this queue too.
    pub topics: Vec<String>,
    /// Deliveries that may be handed out and not yet settled. Default: [`crate::limits::PREFETCH`].
    pub prefetch: u16,
    /// Attempts that will be made at a message: a broker that gives up by itself must not do so earlier. Default:
    /// [`crate::limits::ATTEMPTS_MAX`].
    pub attempts_max: u32,
    /// Belongs to one instance and goes with it, such as a reply queue. What is in it may be lost with its owner.
    pub temporary: bool,
    /// How long to wait between looks while there is nothing to receive, where the transport has to look (the SQL queue, when
    /// nobody rings). Default: 1 ms, doubling up to 50 ms.
    pub poll: Backoff,
}

impl Inbox {
    /// The queue `queue`, without topics, with the default prefetch.
    #[must_use]
    pub fn new(queue: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            topics: Vec::new(),
            prefetch: limits::PREFETCH,
            poll: Backoff::doubling(limits::RECEIVE_PAUSE, limits::RECEIVE_PAUSE_MAX),
            attempts_max: limits::ATTEMPTS_MAX,
            temporary: false,
        }
    }

    /// The queue `queue` of this instance alone.
    #[must_use]
    pub fn temporary(queue: impl Into<String>) -> Self {
        Self { temporary: true, ..Self::new(queue) }
    }

    /// Also what is published to `topic`.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topics.push(topic.into());
        self
    }
}

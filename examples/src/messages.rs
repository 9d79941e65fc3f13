//! What travels.

use barid::{Destination, Message, destination::DestinationError};
use serde::{Deserialize, Serialize};

/// A customer wants something. A command: one bus handles it.
#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
pub struct PlaceOrder {
    /// Which of all commands this is, from 0. Only the injected faults look at it.
    pub command: u64,
    /// Who orders.
    pub customer: String,
}

/// An order was written and committed. An event: whoever subscribed gets it. Its key is the customer.
#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
pub struct OrderPlaced {
    /// Who ordered.
    pub customer: String,
    /// Which of the customer's orders it is, from 1, in the order of the commits.
    pub number: i64,
}

/// The last event of a customer: when it arrived, everything before it did.
#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.closed")]
pub struct OrdersClosed {
    /// Whose orders.
    pub customer: String,
}

/// The names of queues and topics.
#[derive(Clone, Debug)]
pub struct Names {
    /// The queue that orders are sent to.
    pub orders: String,
    /// The topic that events are published to. Not called like a queue: on Kafka both would be the same topic.
    pub events: String,
    /// The queue of those who ship.
    pub shipping: String,
}

impl Names {
    /// Names that end with `suffix`.
    #[must_use]
    pub fn with_suffix(suffix: &str) -> Self {
        let name = |name: &str| format!("{name}{suffix}");
        Self { orders: name("orders"), events: name("order-events"), shipping: name("shipping") }
    }

    /// Names that no earlier run left messages under, for brokers that outlive this program.
    #[must_use]
    pub fn of_this_run() -> Self {
        Self::with_suffix(&format!("-{}", uuid::Uuid::now_v7().simple()))
    }

    /// Where commands go.
    ///
    /// # Errors
    /// When a broker would not take the name.
    pub fn orders_queue(&self) -> Result<Destination, DestinationError> {
        Destination::queue(self.orders.clone())
    }

    /// Where events go.
    ///
    /// # Errors
    /// When a broker would not take the name.
    pub fn events_topic(&self) -> Result<Destination, DestinationError> {
        Destination::topic(self.events.clone())
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::with_suffix("")
    }
}

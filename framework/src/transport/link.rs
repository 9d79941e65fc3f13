//! How it stands between a publisher and its broker.

/// The connection of a [`Publisher`](super::Publisher).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The broker takes messages, as far as is known.
    Up,
    /// The broker is there and takes no messages for now: RabbitMQ does so when its memory or its disk runs out.
    Blocked,
    /// The broker cannot be reached.
    Down,
}

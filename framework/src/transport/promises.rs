//! What a transport keeps beyond the common contract.

/// What a transport keeps. The conformance suite checks exactly this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // a list of independent yes-or-no facts is what this is
pub struct Promises {
    /// Messages survive a restart of the process and of the broker.
    pub durable: bool,
    /// [`Repeat`](super::Repeat) is exact: a first delivery is never reported as possible repeat.
    pub knows_repeats: bool,
    /// `nack(after)` waits that long before it delivers again.
    pub delays: bool,
    /// A message of a key is delivered only after the ones before it were settled, through nacks.
    pub orders_keys: bool,
    /// A message to a queue that nobody declared is a permanent failure, not a silent drop.
    pub refuses_unknown_queues: bool,
}

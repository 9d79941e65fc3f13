//! Keeps the broker from giving messages up behind our back.
//!
//! RabbitMQ 4 drops a message of a quorum queue at its 21st delivery, or dead-letters it where the queue says so; earlier
//! versions limit nothing by themselves. Our attempts are counted and end in a dead letter with a reason, so queues are declared
//! with a limit that no message reaches. It is a large number and not -1, which RabbitMQ 4 takes for no limit: 3.10 accepts
//! it too, and then drops every message at its second delivery (this was run). A queue that exists keeps what it was declared
//! with: [`judge`] decides what the broker's answer means. A limit that an operator set by a policy is not visible here.

use crate::transport::TransportError;

/// The queue argument.
pub(super) const ARGUMENT: &str = "x-delivery-limit";

/// More deliveries than any message has.
pub(super) const UNREACHED: i32 = 1_000_000_000;

/// Deliveries of a message in a quorum queue that has no argument, since RabbitMQ 4.
pub(super) const DEFAULT: u32 = 20;

/// What the broker's refusal of [`UNREACHED`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not about the limit.
    Other,
    /// The queue exists without the argument. Before RabbitMQ 4 it has no limit, since then [`DEFAULT`]; the client does not
    /// show the version, so the lower one counts.
    Unsaid,
    /// The queue exists with this limit.
    Limited(u32),
}

impl Refusal {
    /// Deliveries of a message that the queue certainly allows; `None` when the refusal is not about them.
    pub(super) fn limit(self) -> Option<u32> {
        match self {
            Self::Other => None,
            Self::Unsaid => Some(DEFAULT),
            Self::Limited(limit) => Some(limit),
        }
    }
}

/// Reads the text of a refused `queue.declare`.
pub(super) fn judge(text: &str) -> Refusal {
    let (true, Some((_, current))) = (text.contains(ARGUMENT), text.split_once("current is")) else {
        return Refusal::Other;
    };
    let digits: String =
        current.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().map_or(Refusal::Unsaid, Refusal::Limited)
}

/// Whether our attempts end before the broker's `limit` does.
pub(super) fn allow(limit: u32, attempts_max: u32, what: &str) -> Result<(), TransportError> {
    // A message is dropped when it was delivered more often than the limit says.
    if attempts_max <= limit {
        return Ok(());
    }
    Err(TransportError::Misconfigured {
        what: what.to_owned(),
        cause: format!(
            "the broker drops a message after {limit} deliveries ({ARGUMENT}), and the bus makes {attempts_max} attempts: \
             messages would be lost before they are dead letters"
        ),
        remedy: format!(
            "lower attempts_max to at most {limit}, or delete the queue once it is empty so that it is declared without a limit"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_words_are_understood() {
        let about = |rest: &str| format!("PRECONDITION_FAILED - {rest}");
        for (text, expected) in [
            (
                "invalid arg 'x-delivery-limit' for queue 'q' in vhost '/': {value_negative,-1}",
                Refusal::Other,
            ),
            (
                "inequivalent arg 'x-delivery-limit' for queue 'q7' in vhost '/': received the value '1000000000' of type 'signedint' \
                 but current is none",
                Refusal::Unsaid,
            ),
            (
                "inequivalent arg 'x-delivery-limit' for queue 'q7' in vhost '/': received '1000000000' but current is '5'",
                Refusal::Limited(5),
            ),
            (
                "inequivalent arg 'x-delivery-limit' for queue 'q7' in vhost '/': received the value '1000000000' of type 'signedint' \
                 but current is the value '30' of type 'long'",
                Refusal::Limited(30),
            ),
            (
                "inequivalent arg 'x-queue-type' for queue 'q': received 'quorum' but current is 'classic'",
                Refusal::Other,
            ),
        ] {
            assert_eq!(judge(&about(text)), expected, "{text}");
        }
    }

    #[test]
    fn our_attempts_must_be_the_smaller_number() {
        for (limit, attempts, ok) in
            [(20, 10, true), (20, 20, true), (20, 21, false), (5, 10, false), (0, 1, false)]
        {
            let allowed = allow(limit, attempts, "queue \"orders\"");
            assert_eq!(allowed.is_ok(), ok, "{limit} deliveries, {attempts} attempts");
            if let Err(error) = allowed {
                let said = error.to_string();
                assert!(said.contains("orders") && said.contains("attempts_max"), "{said}");
                assert!(said.contains(&limit.to_string()) && said.contains(&attempts.to_string()), "{said}");
            }
        }
    }
}

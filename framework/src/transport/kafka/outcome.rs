//! Decides what a delivery report means. Pure; the table below is the whole decision.
//!
//! librdkafka retries by itself whatever can be retried until it is told to give up. rdkafka does not pass on whether a
//! failed message may have been written, so everything that is not a plain refusal is unknown: sending again with the same
//! id is right in both cases, and saying *transient* without knowing would not be.

use rdkafka::types::RDKafkaErrorCode as Code;

use crate::transport::Outcome;

/// What became of a row that librdkafka had taken and then reported as failed with `code`.
pub(super) fn of_delivery(code: Code, topic: &str) -> Outcome {
    let text = format!("topic {topic:?}: {code}");
    if is_permanent(code) { Outcome::Permanent(with_remedy(code, text)) } else { Outcome::Unknown(text) }
}

/// What became of a row that librdkafka did not take: it was certainly not sent.
pub(super) fn of_refusal(code: Code, topic: &str) -> Outcome {
    let text = format!("topic {topic:?}: {code}");
    if is_permanent(code) { Outcome::Permanent(with_remedy(code, text)) } else { Outcome::Transient(text) }
}

/// The broker or the client refused this row, and would do so again.
pub(super) fn is_permanent(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::InvalidTopic
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidRecord
            | Code::InvalidTimestamp
            | Code::PolicyViolation
            | Code::UnsupportedForMessageFormat
    )
}

/// The topic is not what the cache believed: ask again before the next row.
pub(super) fn forgets_topic(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::TopicAuthorizationFailed
    )
}

/// The producer's own state is broken: throw it away and make a new one.
pub(super) fn breaks_producer(code: Code) -> bool {
    matches!(
        code,
        Code::Fatal
            | Code::OutOfOrderSequenceNumber
            | Code::UnknownProducerId
            | Code::InvalidProducerEpoch
            | Code::InvalidProducerIdMapping
            | Code::ProducerFenced
            | Code::Fenced
    )
}

/// The row may have to be sent again, and librdkafka has not been told to send nothing after it.
pub(super) fn leaves_a_gap(code: Code) -> bool {
    !is_permanent(code) && !matches!(code, Code::PurgeQueue | Code::PurgeInflight)
}

fn with_remedy(code: Code, text: String) -> String {
    let remedy = match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            "create the topic, then replay"
        }
        Code::TopicAuthorizationFailed => "grant WRITE and DESCRIBE on it, then replay",
        Code::ClusterAuthorizationFailed => "grant IDEMPOTENT_WRITE on the cluster, then replay",
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => {
            "raise max.message.bytes of the topic and message_bytes_max, or send a smaller body"
        }
        _ => return text,
    };
    format!("{text}; {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_permanent_only_when_the_row_itself_was_refused() {
        for code in [
            Code::UnknownTopic,
            Code::UnknownTopicOrPartition,
            Code::InvalidTopic,
            Code::TopicAuthorizationFailed,
            Code::ClusterAuthorizationFailed,
            Code::MessageSizeTooLarge,
            Code::InvalidRecord,
        ] {
            assert!(matches!(of_delivery(code, "t"), Outcome::Permanent(_)), "{code:?}");
            assert!(matches!(of_refusal(code, "t"), Outcome::Permanent(_)), "{code:?}");
        }
    }

    #[test]
    fn what_may_have_been_written_is_unknown_and_what_was_never_taken_is_transient() {
        for code in [
            Code::MessageTimedOut,
            Code::PurgeQueue,
            Code::PurgeInflight,
            Code::BrokerTransportFailure,
            Code::NotEnoughReplicasAfterAppend,
            Code::OutOfOrderSequenceNumber,
            Code::Fatal,
            Code::KafkaStorageError,
        ] {
            assert!(matches!(of_delivery(code, "t"), Outcome::Unknown(_)), "{code:?}");
            assert!(matches!(of_refusal(code, "t"), Outcome::Transient(_)), "{code:?}");
        }
    }

    #[test]
    fn a_broken_sequence_needs_a_new_producer_and_a_refused_row_does_not() {
        assert!(breaks_producer(Code::Fatal) && breaks_producer(Code::OutOfOrderSequenceNumber));
        assert!(!breaks_producer(Code::MessageSizeTooLarge) && !breaks_producer(Code::MessageTimedOut));
    }

    #[test]
    fn a_row_in_doubt_leaves_a_gap_unless_all_behind_it_were_thrown_away() {
        assert!(leaves_a_gap(Code::Unknown) && leaves_a_gap(Code::BrokerTransportFailure));
        assert!(!leaves_a_gap(Code::PurgeQueue) && !leaves_a_gap(Code::PurgeInflight));
        assert!(!leaves_a_gap(Code::MessageSizeTooLarge));
    }
}

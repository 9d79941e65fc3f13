//! Between our messages and Kafka's records: headers, keys, bodies, error codes.

use rdkafka::{
    Message as _,
    message::{BorrowedMessage, Header, Headers as _, OwnedHeaders},
    types::RDKafkaErrorCode as Code,
};

use crate::{
    headers::Headers,
    transport::{OutgoingRow, TransportError},
};

/// The row's headers as record headers.
pub(super) fn record_headers(row: &OutgoingRow) -> OwnedHeaders {
    if let Some(wire) = &row.wire {
        let all = OwnedHeaders::new_with_capacity(wire.headers.len());
        return wire
            .headers
            .iter()
            .fold(all, |all, (key, value)| all.insert(Header { key, value: value.as_ref() }));
    }
    let mut all = Some(OwnedHeaders::new_with_capacity(row.headers.len() + 5));
    row.each_wire_header(|name, value| {
        all = all.take().map(|all| all.insert(Header { key: name, value: Some(value) }));
    });
    all.unwrap_or_default()
}

/// Why the row can never be sent, when it has more bytes than the limit.
pub(super) fn too_large(row: &OutgoingRow, limit: usize) -> Option<String> {
    // What `message.max.bytes` looks at.
    let bytes = row.payload_len() + row.aggregateid.as_ref().map_or(0, String::len);
    let topic = row.destination.name();
    (bytes > limit).then(|| {
        format!(
            "topic {topic:?}: {bytes} bytes are more than message_bytes_max = {limit}; raise it and the topic's \
             max.message.bytes, or send a smaller body"
        )
    })
}

/// The record's headers as text. Of a name that occurs twice the last value counts; bytes that are no UTF-8 are replaced.
pub(super) fn headers_of(record: &BorrowedMessage<'_>) -> Headers {
    let mut all = Headers::new();
    for header in record.headers().into_iter().flat_map(|headers| headers.iter()) {
        all.set(header.key, String::from_utf8_lossy(header.value.unwrap_or_default()));
    }
    all
}

/// What an error of the client means to its user. `connected` says whether the broker had been reached before.
pub(super) fn transport_error(broker: &str, code: Code, reason: &str, connected: bool) -> TransportError {
    let broker = broker.to_owned();
    let cause = if reason.is_empty() { code.to_string() } else { reason.to_owned() };
    match code {
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed => TransportError::Refused { broker, cause },
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic => {
            TransportError::Misconfigured {
                what: format!("topic at {broker}"),
                cause,
                remedy: "declare the inbox before you receive from it".to_owned(),
            }
        }
        _ if connected => TransportError::Lost { broker, cause },
        _ => TransportError::Unreachable { broker, cause },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::transport::{Wire, kafka::faults};

    #[test]
    fn a_row_that_says_how_it_looks_has_these_headers_and_no_others() {
        let wire = Wire { headers: vec![("none".to_owned(), None)], ..Wire::default() };
        let mut row = OutgoingRow { wire: Some(Arc::new(wire)), ..faults::row("orders") };
        let sent = |row: &OutgoingRow| {
            let all = record_headers(row);
            let all = all.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)));
            all.collect::<Vec<_>>()
        };
        assert_eq!(sent(&row), [("none".to_owned(), None)]);
        assert_eq!(row.wire_headers(), Headers::new());
        row.wire = None;
        assert!(sent(&row).iter().any(|(name, _)| name == crate::headers::ID));
    }

    #[test]
    fn refused_lost_and_unreachable_are_told_apart() {
        let check = |code, connected| transport_error("b:1", code, "why", connected);
        assert!(matches!(check(Code::Authentication, false), TransportError::Refused { .. }));
        assert!(matches!(check(Code::AllBrokersDown, true), TransportError::Lost { .. }));
        assert!(matches!(check(Code::Resolve, false), TransportError::Unreachable { .. }));
        assert!(matches!(check(Code::UnknownTopicOrPartition, true), TransportError::Misconfigured { .. }));
    }
}

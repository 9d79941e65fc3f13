//! What the errors of parked messages have in common.
//!
//! Two messages that failed in the same place for the same cause have the same fingerprint, however their ids, sizes and
//! addresses differ. It is kept in the table, so it must never change for the same input: no hasher that is seeded, and no
//! library that may change its mind.

use std::fmt::Write as _;

use uuid::Uuid;

/// Length of a UUID with its hyphens.
const UUID_LEN: usize = 36;
/// From so many hexadecimal digits on, at least one of them from 0 to 9, it is an id and no word.
const HEX_LEN_MIN: usize = 8;

/// Sixteen hexadecimal digits for what was said at `place`: the name of a sink, or `routes` for a row that came to none.
#[must_use]
pub fn fingerprint(place: &str, error: &str) -> String {
    let text = format!("{place}\n{}", normalised(error));
    let (high, _) = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).as_u64_pair();
    format!("{high:016x}")
}

/// The text without what differs from message to message: ids, numbers and addresses.
fn normalised(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut word = String::new();
    for c in without_uuids(text).chars() {
        if c.is_alphanumeric() || "._:/@%+-".contains(c) {
            word.push(c);
            continue;
        }
        push_word(&mut plain, &std::mem::take(&mut word));
        // One space for any white space, and none twice.
        match c {
            c if !c.is_whitespace() => plain.push(c),
            _ if plain.ends_with(' ') => {}
            _ => plain.push(' '),
        }
    }
    push_word(&mut plain, &word);
    plain.truncate(plain.trim_end().len());
    plain
}

fn without_uuids(text: &str) -> String {
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(c) = rest.chars().next() {
        match rest.get(..UUID_LEN) {
            Some(id) if Uuid::try_parse(id).is_ok() => {
                plain.push('#');
                rest = &rest[UUID_LEN..];
            }
            _ => {
                plain.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    plain
}

fn push_word(to: &mut String, word: &str) {
    let bare = word.trim_end_matches(['.', ':']);
    if is_address(bare) {
        // Writing to a String cannot fail.
        let _ = write!(to, "<address>{}", &word[bare.len()..]);
        return;
    }
    let mut part = String::new();
    for c in word.chars() {
        if c.is_alphanumeric() {
            part.push(c);
        } else {
            push_part(to, &std::mem::take(&mut part));
            to.push(c);
        }
    }
    push_part(to, &part);
}

/// A number or an id becomes `#`; a name that has digits in it stays.
fn push_part(to: &mut String, part: &str) {
    let digits = part.chars().filter(char::is_ascii_digit).count();
    let hex = part.strip_prefix("0x").unwrap_or(part);
    let is_hex = hex.len() >= HEX_LEN_MIN && hex.chars().all(|c| c.is_ascii_hexdigit());
    if digits > 0 && (digits == part.len() || is_hex) { to.push('#') } else { to.push_str(part) }
}

/// `host:port`, an IP address with or without a port, or anything with a scheme.
fn is_address(word: &str) -> bool {
    let port = |port: &str| !port.is_empty() && port.chars().all(|c| c.is_ascii_digit());
    word.contains("://")
        || word.parse::<std::net::IpAddr>().is_ok()
        || word
            .rsplit_once(':')
            .is_some_and(|(host, last)| port(last) && host.contains('.') && !host.contains(['/', ':']))
        || word.strip_prefix("localhost:").is_some_and(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_message_to_message_is_removed() {
        for (text, plain) in [
            ("payload of 1048577 bytes exceeds 1048576", "payload of # bytes exceeds #"),
            ("message 018f2c5e-7b1a-7c3d-9e4f-0123456789ab refused", "message # refused"),
            ("queue:a-018f2c5e-7b1a-7c3d-9e4f-0123456789ab", "queue:a-#"),
            ("connection to 10.0.0.17:5672 lost", "connection to <address> lost"),
            ("connection to broker-1.example.com:5672: refused", "connection to <address>: refused"),
            ("no route to localhost:9092.", "no route to <address>."),
            ("amqp://user@host/%2f is closed", "<address> is closed"),
            ("peer fe80::1 is gone", "peer <address> is gone"),
            ("order 17/4, trace 4bf92f3577b34da6a3ce929d0e0e4736", "order #/#, trace #"),
            ("at 0x7ffdeadbeef0", "at #"),
            ("  two \n\t lines ", " two lines"),
            ("", ""),
        ] {
            assert_eq!(normalised(text), plain, "{text:?}");
        }
    }

    #[test]
    fn what_names_the_cause_stays() {
        for text in [
            "NOT_FOUND - no exchange 'orders.v2' in vhost '/'",
            "topic:orders2 does not exist",
            "no route for destination \"queue:b\" (routes: \"queue:a\")",
            "deadbeef",
            "Größe überschritten",
        ] {
            assert_eq!(normalised(text), text);
        }
    }

    /// They are in databases: another algorithm would split every group in two.
    #[test]
    fn a_fingerprint_never_changes() {
        let one = fingerprint("rabbit", "payload of 1048577 bytes exceeds 1048576");
        assert_eq!(one, fingerprint("rabbit", "payload of 9 bytes exceeds 8"));
        assert_eq!(one, "bd2e0d36b1605347");
        assert_ne!(one, fingerprint("kafka", "payload of 9 bytes exceeds 8"), "another sink");
        assert_ne!(one, fingerprint("rabbit", "payload of 9 bytes refused"), "another cause");
    }
}

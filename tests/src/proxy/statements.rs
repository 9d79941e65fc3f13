//! What MariaDB's clients have prepared, so that a request that only names a statement is known by its text.
//!
//! The one protocol that the proxy looks into: where the text travels once and is executed by number, a needle would be found
//! nowhere. Other protocols have no request of this shape (a length, the number 0, one of two bytes).

use std::collections::HashMap;

const PREPARE: u8 = 0x16;
const EXECUTE: u8 = 0x17;
const CLOSE: u8 = 0x19;
/// Length and number of a packet.
const HEADER_BYTES: usize = 4;

/// The statements of one connection.
#[derive(Debug, Default)]
pub(super) struct Statements {
    texts: HashMap<[u8; 4], Vec<u8>>,
    /// Its number comes with the answer.
    asked: Option<Vec<u8>>,
}

/// What a request does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Does<'a> {
    /// It only prepares: what its text says is not done.
    Prepares,
    /// It executes this text.
    Executes(&'a [u8]),
    /// What its bytes say.
    AsItSays,
}

impl Statements {
    /// Notes the first piece of a request.
    pub(super) fn request(&mut self, request: &[u8]) -> Does<'_> {
        match body(request) {
            Some((PREPARE, rest)) => {
                self.asked = Some(rest.to_vec());
                Does::Prepares
            }
            Some((EXECUTE, rest)) => {
                let text = rest.get(..4).and_then(|number| self.texts.get(number));
                text.map_or(Does::AsItSays, |text| Does::Executes(text))
            }
            _ => Does::AsItSays,
        }
    }

    /// The requests that make the server forget all of them; it answers none of these.
    pub(super) fn closing(&self) -> Vec<u8> {
        self.texts.keys().flat_map(|number| [&[5, 0, 0, 0, CLOSE], &number[..]].concat()).collect()
    }

    /// Notes the first piece of an answer.
    pub(super) fn answer(&mut self, answer: &[u8]) {
        // OK and the number; anything else is an error, and there is no such statement.
        let number = answer.get(HEADER_BYTES..HEADER_BYTES + 5).filter(|answer| answer[0] == 0);
        if let (Some(text), Some(number)) = (self.asked.take(), number) {
            self.texts.insert([number[1], number[2], number[3], number[4]], text);
        }
    }
}

/// The first byte of a packet that is a request by itself, and what follows.
fn body(request: &[u8]) -> Option<(u8, &[u8])> {
    let [a, b, c, 0, kind, rest @ ..] = request else { return None };
    let length = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
    (length > rest.len() && [PREPARE, EXECUTE].contains(kind)).then_some((*kind, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_that_is_executed_by_number_is_known_by_its_text() {
        let mut statements = Statements::default();
        assert_eq!(statements.request(b"\x09\0\0\0\x16DO 1;END"), Does::Prepares);
        statements.answer(b"\x0c\0\0\x01\0\x07\0\0\0\0\0\0\0");
        assert_eq!(statements.request(b"\x0a\0\0\0\x17\x07\0\0\0\0\x01\0\0\0"), Does::Executes(b"DO 1;END"));
        assert_eq!(statements.request(b"\x0a\0\0\0\x17\x08\0\0\0\0\x01\0\0\0"), Does::AsItSays);
        assert_eq!(statements.request(b"Q\0\0\0\x0dCOMMIT\0"), Does::AsItSays, "PostgreSQL");
        assert_eq!(statements.closing(), b"\x05\0\0\0\x19\x07\0\0\0");
        // Refused: the next answer is not its number.
        statements.request(b"\x04\0\0\0\x16BAD");
        statements.answer(b"\x09\0\0\x01\xff\x28\x04#42000");
        statements.answer(b"\x07\0\0\x01\0\x09\0\0\0\0\0");
        assert_eq!(statements.request(b"\x0a\0\0\0\x17\x09\0\0\0\0\x01\0\0\0"), Does::AsItSays);
    }
}

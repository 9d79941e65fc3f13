//! Recognising a message that was handled before.
//!
//! The record is a row of table `idempotency`, inserted first in the unit of work's transaction and committed with it.
//! Only a committed record makes a message a duplicate; any other error of the insert is an error. Where the sender numbers
//! its messages, the last number of each key can stand for the records ([`SqlIdempotency::high_water_mark`]).
//!
//! The answer to a request is kept with its record, so that a duplicate of the request gets the same answer.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    error::{Error, Result},
    headers::{self, Headers},
    incoming::Incoming,
    limits,
    store::idempotency::Mark,
};

pub(crate) mod retention;

pub use crate::store::idempotency::{IdempotencyRows, Table, delete, look};

/// What happens to a message that was handled before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DuplicatePolicy {
    /// The handlers are skipped and the message is acknowledged. An answer that was kept with the record is sent again.
    #[default]
    Skip,
    /// The handlers run all the same, with the header `barid-duplicate: true`.
    Invoke,
}

/// Idempotency in the database of the SQL unit of work. Needs `commit_with_transaction`.
///
/// ```
/// use std::time::Duration;
/// use barid::SqlIdempotency;
/// let fortnight = SqlIdempotency::new().keep_for(Duration::from_secs(14 * 24 * 60 * 60));
/// # let _ = fortnight;
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct SqlIdempotency {
    pub(crate) policy: DuplicatePolicy,
    pub(crate) keep_for: Duration,
    pub(crate) number: Option<&'static str>,
}

impl Default for SqlIdempotency {
    fn default() -> Self {
        Self { policy: DuplicatePolicy::Skip, keep_for: limits::RECORDS_KEPT_FOR, number: None }
    }
}

impl SqlIdempotency {
    /// Skips duplicates.
    pub fn new() -> Self {
        Self::default()
    }

    /// Does with duplicates what `policy` says.
    pub fn duplicates(mut self, policy: DuplicatePolicy) -> Self {
        self.policy = policy;
        self
    }

    /// How long a duplicate is recognised: records are removed once they are older. Default: 7 days. At least an hour.
    ///
    /// Choose more than a message can stay in the broker, among the dead letters or in a log before it comes again. Removing
    /// runs beside the worker, in steps that read a bounded range of the primary key. On PostgreSQL the table may also have
    /// one partition a day (`migrations/optional/postgres_idempotency_partitions.sql`): the bus makes them ahead and drops
    /// the old ones, and the age of a UUIDv7 is then the time in the id.
    pub fn keep_for(mut self, keep_for: Duration) -> Self {
        self.keep_for = keep_for.max(Duration::from_secs(60 * 60));
        self
    }

    /// Recognises duplicates by the number that the sender put into `header`, by key: one row for each key instead of one for
    /// each message.
    ///
    /// For messages that have a key and a number; a message without either, and a dead letter that is replayed, is recognised
    /// by its id as usual. A number is 0 to 2^63-1 and must grow with each message of a sender, an aggregate and a key; gaps
    /// are allowed. **A message whose number is not higher than the last one that was handled is a duplicate**, so the
    /// transport must deliver a key's messages in order also through retries: Kafka and the SQL queue do, on others `build()`
    /// refuses it (BRD051), as it does with batches (BRD052). Answers are not kept with a number.
    pub fn high_water_mark(mut self, header: &'static str) -> Self {
        self.number = Some(header);
        self
    }

    /// The number of a message, if it is to be recognised by it.
    pub(crate) fn mark(&self, message: &Incoming) -> Result<Option<Mark>> {
        let Some(header) = self.number else { return Ok(None) };
        mark(header, &message.headers, &message.source)
    }
}

fn mark(header: &str, all: &Headers, source: &str) -> Result<Option<Mark>> {
    let (Some(number), Some(key)) = (all.get(header), all.get(headers::KEY)) else { return Ok(None) };
    if all.get(headers::DEAD_CAUSE).is_some() {
        return Ok(None);
    }
    let number = number.parse().ok().filter(|number: &i64| *number >= 0).ok_or_else(|| {
        Error::permanent(format!(
            "header {header:?} is {number:?}, which is no number from 0 to {}",
            i64::MAX
        ))
    })?;
    let sender = all.get(headers::SOURCE).unwrap_or(source);
    let aggregate = all.get(headers::AGGREGATE).unwrap_or_default();
    let name = format!("{sender}\0{aggregate}\0{key}");
    Ok(Some(Mark { key_id: Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()), number }))
}

/// The least UUID that begins with this time, in milliseconds since 1970.
pub(crate) fn first_id(ms: i64) -> Uuid {
    let ms = u128::from(ms.clamp(0, (1 << 48) - 1).unsigned_abs());
    Uuid::from_u128(ms << 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_keyed_and_numbered_message_that_never_was_a_dead_letter_has_a_mark() {
        let of = |pairs: &[(&str, &str)]| mark("n", &Headers::from_iter(pairs.iter().copied()), "queue");
        assert_eq!(of(&[("n", "7")]).unwrap(), None);
        assert_eq!(of(&[(headers::KEY, "k")]).unwrap(), None);
        assert_eq!(of(&[("n", "7"), (headers::KEY, "k"), (headers::DEAD_CAUSE, "no")]).unwrap(), None);
        let seven = of(&[("n", "7"), (headers::KEY, "k")]).unwrap().unwrap();
        assert_eq!(seven.number, 7);
        let other = of(&[("n", "7"), (headers::KEY, "k"), (headers::SOURCE, "shop")]).unwrap().unwrap();
        assert_ne!(seven.key_id, other.key_id, "two senders number by themselves");
        for bad in ["", "-1", "x", "9223372036854775808"] {
            let said = of(&[("n", bad), (headers::KEY, "k")]).unwrap_err().to_string();
            assert!(said.contains("is no number"), "{said}");
        }
    }
}

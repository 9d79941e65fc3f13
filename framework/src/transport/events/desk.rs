//! Which events are handed out, and how far everything is settled. No I/O and no clock.
//!
//! An event of a stream is handed out when the one before it was settled; other streams go on. Positions have no gaps, so the
//! checkpoint is the last one up to which all are settled.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::{event_store::RecordedEvent, transport::Repeat};

#[derive(Debug, Default)]
pub(super) struct Desk {
    /// Every event up to here was settled.
    low: u64,
    /// Every event up to here was read.
    read: u64,
    /// Events up to here may have been handed out by an earlier reader.
    repeats: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// The streams of what was handed out, by position.
    flying: BTreeMap<u64, String>,
    /// Settled, behind one that is not.
    done: BTreeSet<u64>,
    /// One more with each start: what an earlier one handed out settles nothing.
    pub(super) term: u64,
}

#[derive(Debug)]
struct Waiting {
    event: RecordedEvent,
    /// Not before this.
    due: Option<Instant>,
    repeated: bool,
}

impl Desk {
    /// Begins behind `position`, and forgets everything from before.
    pub(super) fn start(&mut self, position: u64, repeats: u64) {
        let term = self.term + 1;
        *self = Self { low: position, read: position, repeats, term, ..Self::default() };
    }

    pub(super) fn low(&self) -> u64 {
        self.low
    }

    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// How many events are read and not settled, or settled behind one that is not.
    pub(super) fn ahead(&self) -> u64 {
        self.read - self.low
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn push(&mut self, event: RecordedEvent) {
        let Some(position) = event.position.filter(|position| *position > self.read) else { return };
        self.read = position;
        self.waiting.insert(position, Waiting { event, due: None, repeated: position <= self.repeats });
    }

    /// The next event to hand out; otherwise when the first one that waits for its time is due.
    pub(super) fn next(&mut self, now: Instant) -> Result<(RecordedEvent, Repeat), Option<Instant>> {
        let mut blocked: BTreeSet<&str> = self.flying.values().map(String::as_str).collect();
        let mut first_due = None;
        let mut found = None;
        for (position, Waiting { event, due, .. }) in &self.waiting {
            if !blocked.insert(&event.stream) {
                continue;
            }
            match due.filter(|due| *due > now) {
                None => {
                    found = Some(*position);
                    break;
                }
                due => first_due = first_due.min(due).or(due),
            }
        }
        let taken =
            found.and_then(|position| self.waiting.remove(&position).map(|waiting| (position, waiting)));
        let Some((position, Waiting { event, repeated, .. })) = taken else { return Err(first_due) };
        self.flying.insert(position, event.stream.clone());
        Ok((event, if repeated { Repeat::Possible } else { Repeat::First }))
    }

    /// The event was handled.
    pub(super) fn ack(&mut self, term: u64, position: u64) {
        if term != self.term || self.flying.remove(&position).is_none() {
            return;
        }
        self.done.insert(position);
        while self.done.remove(&(self.low + 1)) {
            self.low += 1;
        }
    }

    /// The event was not handled: it comes again, before what follows it in its stream.
    pub(super) fn nack(&mut self, term: u64, event: RecordedEvent, due: Option<Instant>) {
        let Some(position) = event.position.filter(|_| term == self.term) else { return };
        if self.flying.remove(&position).is_some() {
            self.waiting.insert(position, Waiting { event, due, repeated: true });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::headers::Headers;

    fn event(position: u64, stream: &str) -> RecordedEvent {
        RecordedEvent {
            id: uuid::Uuid::nil(),
            stream: stream.to_owned(),
            version: position,
            position: Some(position),
            name: "e".to_owned(),
            data: bytes::Bytes::new(),
            headers: Headers::new(),
            recorded_at: chrono::DateTime::UNIX_EPOCH,
        }
    }

    fn desk(streams: &[&str]) -> Desk {
        let mut desk = Desk::default();
        desk.start(10, 11);
        for (at, stream) in streams.iter().enumerate() {
            desk.push(event(11 + at as u64, stream));
        }
        desk
    }

    fn next(desk: &mut Desk, now: Instant) -> Option<u64> {
        desk.next(now).ok().and_then(|(event, _)| event.position)
    }

    #[tokio::test]
    async fn a_stream_keeps_its_order_and_others_go_on() {
        let now = Instant::now();
        let mut desk = desk(&["a", "a", "b", "a"]);
        assert_eq!(desk.next(now).unwrap().1, Repeat::Possible, "handed out before, perhaps");
        assert_eq!(next(&mut desk, now), Some(13), "12 waits for 11");
        assert_eq!(next(&mut desk, now), None);
        desk.ack(desk.term, 13);
        assert_eq!((desk.low(), desk.ahead()), (10, 4));
        let due = now + Duration::from_secs(1);
        desk.nack(desk.term, event(11, "a"), Some(due));
        assert_eq!(desk.next(now).unwrap_err(), Some(due), "12 waits for 11");
        assert_eq!(desk.next(due).unwrap().0.position, Some(11));
        desk.ack(desk.term, 11);
        assert_eq!(desk.low(), 11);
        assert_eq!(desk.next(now).unwrap(), (event(12, "a"), Repeat::First));
        desk.ack(desk.term, 12);
        assert_eq!(desk.low(), 13);
        desk.ack(desk.term, 12);
        assert_eq!((desk.low(), desk.read(), desk.waiting()), (13, 14, 1));
    }

    #[tokio::test]
    async fn an_earlier_term_settles_nothing() {
        let now = Instant::now();
        let mut desk = desk(&["a", "b"]);
        let term = desk.term;
        assert_eq!(next(&mut desk, now), Some(11));
        desk.start(10, 12);
        desk.push(event(11, "a"));
        assert_eq!(next(&mut desk, now), Some(11));
        desk.ack(term, 11);
        desk.nack(term, event(11, "a"), None);
        assert_eq!((desk.low(), next(&mut desk, now)), (10, None));
        desk.push(event(11, "a"));
        assert_eq!(desk.waiting(), 0, "what was read is not read again");
    }
}

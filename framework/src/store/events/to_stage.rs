//! What a distributed transaction is going to stage, collected while it is open.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{Appended, EventStore};
use crate::{
    event_store::{EventStoreError, Expected, NewEvent, StreamName},
    limits,
    store::{backend::Backend, connection::UnitConnection},
};

/// Events for one stream, to be staged.
#[derive(Debug)]
#[must_use = "nothing is staged before it is prepared"]
pub struct StagedAppend {
    pub(super) stream: StreamName,
    pub(super) expected: Expected,
    pub(super) events: Vec<NewEvent>,
}

impl StagedAppend {
    /// Nothing yet, for a stream that must be at `expected`.
    pub fn new(stream: StreamName, expected: Expected) -> Self {
        Self { stream, expected, events: Vec::new() }
    }

    /// One more event.
    pub fn event(mut self, event: impl Into<NewEvent>) -> Self {
        self.events.push(event.into());
        self
    }

    /// Takes what is to follow it in the same stream, if what is expected of the stream then fits together.
    fn join(&mut self, next: Self) -> Result<(), EventStoreError> {
        let have = self.events.len() as u64;
        match (self.expected.version(), next.expected.version()) {
            (_, None) => {}
            (Some(first), Some(then)) if first + have == then => {}
            (None, Some(then)) if then >= have => self.expected = Expected::Version(then - have),
            (first, Some(_)) => {
                let (stream, actual) = (next.stream.to_string(), first.unwrap_or_default() + have);
                return Err(EventStoreError::Conflict { stream, expected: next.expected, actual });
            }
        }
        self.events.extend(next.events);
        Ok(())
    }
}

/// What a transaction is going to stage, in the order in which it came.
#[derive(Debug, Default)]
pub(crate) struct StagedAppends {
    streams: BTreeMap<StreamName, StagedAppend>,
    events: usize,
    /// Why something was not taken: nothing of it may be prepared then.
    refused: Option<String>,
}

impl StagedAppends {
    /// Takes one more; events for a stream that is there already follow what is there.
    pub(crate) fn add(&mut self, append: StagedAppend) -> Result<(), EventStoreError> {
        let taken = self.take(append);
        if let Err(error) = &taken {
            self.refused.get_or_insert_with(|| error.to_string());
        }
        taken
    }

    fn take(&mut self, append: StagedAppend) -> Result<(), EventStoreError> {
        // An append without events counts as one, too: it names a stream.
        self.events += append.events.len().max(1);
        if self.events > limits::EVENTS_APPEND_MAX {
            let (stream, what) =
                (append.stream.to_string(), "the number of events of one transaction".to_owned());
            let (is, max) = (self.events, limits::EVENTS_APPEND_MAX);
            return Err(EventStoreError::TooLarge { stream, what, is, max });
        }
        match self.streams.entry(append.stream.clone()) {
            Entry::Occupied(mut there) => there.get_mut().join(append),
            Entry::Vacant(place) => {
                place.insert(append);
                Ok(())
            }
        }
    }

    /// One append a stream, or why one was not taken.
    pub(crate) fn ready(self) -> Result<Vec<StagedAppend>, String> {
        match self.refused {
            Some(refused) => Err(refused),
            None => Ok(self.streams.into_values().collect()),
        }
    }
}

impl<DB: Backend> EventStore<DB> {
    /// Appends in a unit of work what could have been staged.
    pub(crate) async fn append_staged_in(
        &self,
        unit: &mut UnitConnection<DB>,
        append: StagedAppend,
    ) -> Result<Appended, EventStoreError> {
        self.append_in(unit, &append.stream, append.expected, append.events).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(expected: Expected, events: usize) -> StagedAppend {
        let append = StagedAppend::new(StreamName::new("s").unwrap(), expected);
        (0..events).fold(append, |append, _| append.event(NewEvent::raw("e", "")))
    }

    #[test]
    fn what_comes_for_one_stream_follows_each_other() {
        use Expected::{Any, NoStream, Version};
        let check = |appends: &[(Expected, usize)], becomes: Option<(Expected, usize)>| {
            let mut all = StagedAppends::default();
            let taken = appends.iter().try_for_each(|(expected, events)| all.add(of(*expected, *events)));
            let ready = all.ready().map(|mut all| all.remove(0));
            assert_eq!(taken.is_ok(), ready.is_ok(), "what is refused is not forgotten: {appends:?}");
            assert_eq!(ready.ok().map(|one| (one.expected, one.events.len())), becomes, "{appends:?}");
        };
        check(&[(NoStream, 2)], Some((NoStream, 2)));
        check(&[(NoStream, 2), (Any, 1), (Version(3), 1)], Some((NoStream, 4)));
        check(&[(Version(5), 1), (Version(6), 1)], Some((Version(5), 2)));
        check(&[(Any, 2), (Version(7), 1), (Version(8), 1)], Some((Version(5), 4)));
        check(&[(Any, 2), (NoStream, 1)], None);
        check(&[(NoStream, 2), (NoStream, 1)], None);
        check(&[(Version(5), 1), (Version(7), 1), (Any, 1)], None);
        check(&[(Any, limits::EVENTS_APPEND_MAX)], Some((Any, limits::EVENTS_APPEND_MAX)));
        check(&[(Any, limits::EVENTS_APPEND_MAX), (Any, 0)], None);
    }
}

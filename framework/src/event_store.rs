//! Streams of events: what happened to one thing, one after the other, kept for good.
//!
//! A handler appends through its context, in the transaction of its message ([`Context::events`](crate::Context::events)); other
//! code appends through [`EventStore`]. Who appends says which version of the stream it has seen ([`Expected`]); who comes second
//! gets [`EventStoreError::Conflict`] and nothing of its own is written.
//!
//! Promised: the versions of a stream are 1, 2, 3 and so on, without gaps. All events have one global order, in which each stream
//! keeps its own and what committed before something else began comes before it; positions in it have no gaps, and a reader that goes on
//! behind the last position it has seen never misses an event. That is why positions are not given by the transaction that
//! appends: it may commit after one with a higher number. They are given after the commit, by whoever reads all streams, behind
//! one lock that is held for milliseconds. Nobody who appends waits for anybody on another stream, and a transaction that stays open
//! (or prepared) for hours holds up nobody who reads.
//!
//! What it does not do: events are never changed and never removed.

mod error;
mod event;
mod page;
mod snapshot;

pub use error::EventStoreError;
pub use event::{Expected, NewEvent, RecordedEvent, StreamName};
pub use page::{Direction, Page, Slice};
pub use snapshot::Snapshot;

pub(crate) use event::EncodedEvent;

pub use crate::{
    context::UnitEvents,
    store::events::{Appended, EventStore, StagedAppend, StagedEvents, StagedOutcome},
    transport::events::EventFeed,
};

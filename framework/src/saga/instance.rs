//! The saga that one message concerns, on its way through the pipeline.
//!
//! Made when the message is decoded, read when the unit of work has begun, shown to the handler, and asked afterwards what has to be
//! written.

use std::{any::Any, sync::Arc};

use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard};
use uuid::Uuid;

use super::{
    Data,
    conflict::Place,
    definition::{Resolution, Rules},
    state::{Live, State, decoded},
    timeouts::Rescheduled,
};
use crate::{
    error::{Error, Result},
    store::saga::{Change, Conflict, Lookup, Stored},
};

/// The saga of a message, whatever its state.
pub(crate) trait Concerned: Any + Send + Sync {
    /// The name of the saga.
    fn saga(&self) -> &str;
    /// How it is found; `None` when the message says nothing that could find one.
    fn lookup(&self) -> Option<&Lookup>;
    /// Takes what the store has.
    fn take(&self, stored: Option<Stored>) -> Result<()>;
    /// What has to be written after the handler ran.
    fn change(&self) -> Result<Option<Change>>;
    /// Whether it is merged with what others saved, instead of handling the message again.
    fn merges(&self) -> bool;
    /// Merges the state with what somebody else saved, and says what has to be written then.
    fn merge(&self, fresh: Option<Stored>) -> Result<Option<Change>>;
    /// What has to leave the schedule, and what has to get into it.
    fn timeouts(&self) -> Result<Rescheduled>;
    /// Which saga it is, for messages.
    fn place(&self) -> Place;
}

pub(crate) struct Instance<D> {
    pub(super) rules: Arc<Rules<D>>,
    pub(super) lookup: Option<Lookup>,
    pub(super) message_id: Uuid,
    state: Arc<Mutex<State<D>>>,
}

impl<D: Data> Instance<D> {
    pub(super) fn new(rules: Arc<Rules<D>>, lookup: Option<Lookup>, message_id: Uuid) -> Self {
        Self { rules, lookup, message_id, state: Arc::new(Mutex::new(State::Unread)) }
    }

    pub(super) fn state(&self) -> Result<OwnedMutexGuard<State<D>>> {
        Arc::clone(&self.state).try_lock_owned().map_err(|_| {
            Error::new(format!(
                "a Saga<{}> is alive already, or outlives its handler: drop it before the handler returns",
                std::any::type_name::<D>()
            ))
        })
    }

    /// The state for a handler.
    pub(super) fn guard(&self) -> Result<OwnedMappedMutexGuard<State<D>, Live<D>>> {
        let live = OwnedMutexGuard::try_map(self.state()?, |state| match state {
            State::Live(live) => Some(live),
            _ => None,
        });
        live.map_err(|_| {
            Error::permanent(format!("saga {:?} was not read for this message", self.rules.name))
        })
    }

    fn conflict(&self) -> Error {
        Error::from(Conflict(format!("{} was changed by another message", self.place())))
    }
}

impl<D: Data> Concerned for Instance<D> {
    fn saga(&self) -> &str {
        &self.rules.name
    }

    fn lookup(&self) -> Option<&Lookup> {
        self.lookup.as_ref()
    }

    fn take(&self, stored: Option<Stored>) -> Result<()> {
        *self.state()? = State::of(&self.rules.name, stored)?;
        Ok(())
    }

    fn change(&self) -> Result<Option<Change>> {
        match &*self.state()? {
            State::Live(live) => live.change(self.message_id),
            State::Unread | State::Missing | State::Completed(_) => Ok(None),
        }
    }

    fn merges(&self) -> bool {
        self.rules.resolve.is_some()
    }

    fn merge(&self, fresh: Option<Stored>) -> Result<Option<Change>> {
        let mut state = self.state()?;
        let (State::Live(live), Some(resolve), Some(fresh)) = (&mut *state, &self.rules.resolve, fresh)
        else {
            drop(state);
            return Err(self.conflict());
        };
        let other = fresh.data.as_deref().map(|json| decoded::<D>(&self.rules.name, live.id, json));
        let resolution = match other.transpose()? {
            Some(other) => resolve(&mut live.data, &other),
            // Completed meanwhile: there is nothing to merge with.
            None => Resolution::Again,
        };
        if resolution == Resolution::Again {
            drop(state);
            return Err(self.conflict());
        }
        live.rebase(&fresh)?;
        live.change(self.message_id)
    }

    fn timeouts(&self) -> Result<Rescheduled> {
        Ok(match &mut *self.state()? {
            State::Live(live) => live.timeouts.take(live.completed),
            State::Unread | State::Missing | State::Completed(_) => (Vec::new(), Vec::new()),
        })
    }

    fn place(&self) -> Place {
        let live = self.state().ok().and_then(|state| match &*state {
            State::Live(live) => Some((live.id, live.read)),
            State::Unread | State::Missing | State::Completed(_) => None,
        });
        Place { saga: self.rules.name.clone(), lookup: self.lookup.clone(), live }
    }
}

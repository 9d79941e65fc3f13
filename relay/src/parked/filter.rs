//! Which parked messages are meant.

use std::{fmt, time::Duration};

use uuid::Uuid;

use super::Action;
use crate::lane::ParkState;

/// Everything that is set must be true of a message. Nothing set is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The message id.
    pub id: Option<Uuid>,
    /// One of these states; none named is any.
    pub states: Vec<ParkState>,
    /// The destination, as it is written.
    pub destination: Option<String>,
    /// The message name.
    pub name: Option<String>,
    /// The ordering key: `aggregatetype` and `aggregateid`.
    pub key: Option<(String, String)>,
    /// The group.
    pub fingerprint: Option<String>,
    /// Parked longer ago than this.
    pub older_than: Option<Duration>,
    /// Parked less long ago than this.
    pub newer_than: Option<Duration>,
}

impl Filter {
    /// Whether anything is named besides states.
    #[must_use]
    pub fn names_something(&self) -> bool {
        *self != Self { states: self.states.clone(), ..Self::default() }
    }

    /// What a change means: the states that the action means something to, and never everything by accident.
    ///
    /// # Errors
    /// When it names nothing and `all` was not asked for, or a state that the action means nothing to.
    pub fn meant_by(mut self, action: Action, all: bool) -> Result<Self, Unmeant> {
        if !all && !self.names_something() {
            return Err(Unmeant::Nothing);
        }
        if let Some(state) = self.states.iter().find(|state| !action.states().contains(state)) {
            return Err(Unmeant::State(action, *state));
        }
        if self.states.is_empty() {
            // Who names one message means that one, whatever its state.
            let states = if self.id.is_some() { action.states() } else { action.usual_states() };
            self.states = states.to_vec();
        }
        Ok(self)
    }
}

/// Why a filter is no selection for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmeant {
    /// It names nothing. Name something, or ask for all.
    #[error(
        "which messages? Name an id, a fingerprint, a key, a destination, a type or an age, or ask for all"
    )]
    Nothing,
    /// The action means nothing to this state.
    #[error("{0} means nothing to messages in state {state}: they go where the poison message before them goes", state = .1.as_str())]
    State(Action, ParkState),
}

/// As it is kept in `relay_audit`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |age: Option<Duration>| age.map(|age| format!("{} s", age.as_secs()));
        let states: Vec<&str> = self.states.iter().map(|state| state.as_str()).collect();
        let parts = [
            ("id", self.id.map(|id| id.to_string())),
            ("state", (!states.is_empty()).then(|| states.join("|"))),
            ("destination", self.destination.clone()),
            ("type", self.name.clone()),
            ("key", self.key.as_ref().map(|(aggregatetype, id)| format!("{aggregatetype}/{id}"))),
            ("fingerprint", self.fingerprint.clone()),
            ("older than", seconds(self.older_than)),
            ("newer than", seconds(self.newer_than)),
        ];
        let parts: Vec<String> =
            parts.into_iter().filter_map(|(name, value)| Some(format!("{name} = {}", value?))).collect();
        f.write_str(&if parts.is_empty() { "all".to_owned() } else { parts.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_words() {
        assert_eq!(Filter::default().to_string(), "all");
        let filter = Filter {
            states: vec![ParkState::Poison, ParkState::Skipped],
            key: Some(("order".to_owned(), "7".to_owned())),
            older_than: Some(Duration::from_secs(60)),
            ..Filter::default()
        };
        assert_eq!(filter.to_string(), "state = poison|skipped, key = order/7, older than = 60 s");
        assert!(filter.names_something());
        assert!(!Filter { states: vec![ParkState::Poison], ..Filter::default() }.names_something());
    }
}

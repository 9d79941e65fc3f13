//! Which messages are meant, as arguments.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::{
    lane::ParkState,
    parked::{Filter, words},
};

/// Everything that is named must be true of a message.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Which messages")]
pub(super) struct Selection {
    /// In this state; may be named several times.
    #[arg(long, value_enum)]
    state: Vec<State>,
    /// With this destination, for instance queue:orders.
    #[arg(long)]
    destination: Option<String>,
    /// With this message name.
    #[arg(long = "type", value_name = "TYPE")]
    name: Option<String>,
    /// With this ordering key: the columns aggregatetype and aggregateid, for instance order/4711.
    #[arg(long, value_name = "AGGREGATETYPE/AGGREGATEID", value_parser = words::key)]
    key: Option<words::Key>,
    /// Of this group; `parked groups` has them.
    #[arg(long)]
    fingerprint: Option<String>,
    /// Parked longer ago than this: 30s, 15m, 2h or 7d.
    #[arg(long, value_name = "AGE", value_parser = words::age)]
    older_than: Option<Duration>,
    /// Parked less long ago than this.
    #[arg(long, value_name = "AGE", value_parser = words::age)]
    newer_than: Option<Duration>,
}

impl Selection {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            id: None,
            states: self.state.iter().map(|state| state.0).collect(),
            destination: self.destination.clone(),
            name: self.name.clone(),
            key: self.key.clone(),
            fingerprint: self.fingerprint.clone(),
            older_than: self.older_than,
            newer_than: self.newer_than,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct State(ParkState);

impl ValueEnum for State {
    fn value_variants<'a>() -> &'a [Self] {
        &[State(ParkState::Poison), State(ParkState::Behind), State(ParkState::Skipped)]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.as_str()))
    }
}

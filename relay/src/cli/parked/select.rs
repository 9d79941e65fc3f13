//! Which messages are meant, as arguments.

use std::{str::FromStr, time::Duration};

use clap::{Args, ValueEnum};
use uuid::Uuid;

use super::super::terminal::age;
use crate::{
    lane::{ParkState, RowId},
    parked::Filter,
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
    #[arg(long, value_name = "AGGREGATETYPE/AGGREGATEID")]
    key: Option<Key>,
    /// Of this group; `parked groups` has them.
    #[arg(long)]
    fingerprint: Option<String>,
    /// Parked longer ago than this: 30s, 15m, 2h or 7d.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// Parked less long ago than this.
    #[arg(long, value_name = "AGE", value_parser = age)]
    newer_than: Option<Duration>,
}

impl Selection {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            id: None,
            states: self.state.iter().map(|state| state.0).collect(),
            destination: self.destination.clone(),
            name: self.name.clone(),
            key: self.key.clone().map(|key| (key.aggregatetype, key.aggregateid)),
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

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    aggregatetype: String,
    aggregateid: String,
}

impl FromStr for Key {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (aggregatetype, aggregateid) =
            text.split_once('/').ok_or("a key is AGGREGATETYPE/AGGREGATEID, for instance order/4711")?;
        Ok(Self { aggregatetype: aggregatetype.to_owned(), aggregateid: aggregateid.to_owned() })
    }
}

/// The last message of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct After(pub(super) RowId);

impl FromStr for After {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text
            .split_once(':')
            .and_then(|(seq, id)| Some(RowId { seq: seq.parse().ok()?, id: Uuid::try_parse(id).ok()? }));
        parts.map(Self).ok_or("the end of a page is SEQ:ID, as `parked list` prints it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ends_of_pages() {
        let key: Key = "order/a/b".parse().unwrap();
        assert_eq!((key.aggregatetype.as_str(), key.aggregateid.as_str()), ("order", "a/b"));
        assert!("order".parse::<Key>().is_err());
        let id = Uuid::from_u128(7);
        assert_eq!(format!("12:{id}").parse(), Ok(After(RowId { seq: 12, id })));
        assert!("12".parse::<After>().is_err() && "x:y".parse::<After>().is_err());
    }
}

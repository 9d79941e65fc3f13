//! Which archived messages are meant.

use std::{fmt, time::Duration};

use chrono::DateTime;
use uuid::Uuid;

use crate::parked::{json::time, words};

/// Everything that is set must be true of a message. Nothing set is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The message id.
    pub id: Option<Uuid>,
    /// The ordering key: `aggregatetype` and `aggregateid`.
    pub key: Option<(String, String)>,
    /// The destination, as it is written.
    pub destination: Option<String>,
    /// The message name.
    pub name: Option<String>,
    /// Published at this time or later, in milliseconds since 1970.
    pub from_ms: Option<i64>,
    /// Published before this time.
    pub until_ms: Option<i64>,
}

impl Selection {
    /// Whether anything is named.
    #[must_use]
    pub fn names_something(&self) -> bool {
        *self != Self::default()
    }
}

/// As it is kept in `relay_audit`.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("id", self.id.map(|id| id.to_string())),
            ("key", self.key.as_ref().map(|(aggregatetype, id)| format!("{aggregatetype}/{id}"))),
            ("destination", self.destination.clone()),
            ("type", self.name.clone()),
            ("published from", self.from_ms.map(time)),
            ("published until", self.until_ms.map(time)),
        ];
        let parts: Vec<String> =
            parts.into_iter().filter_map(|(name, value)| Some(format!("{name} = {}", value?))).collect();
        f.write_str(&if parts.is_empty() { "all".to_owned() } else { parts.join(", ") })
    }
}

/// A time as operators write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Milliseconds since 1970.
    At(i64),
    /// So long ago.
    Ago(Duration),
}

impl When {
    /// Milliseconds since 1970, if it is this time now.
    #[must_use]
    pub fn ms(self, now_ms: i64) -> i64 {
        match self {
            Self::At(ms) => ms,
            Self::Ago(age) => now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
        }
    }
}

/// `2026-03-29T10:00:00Z`, or how long ago: `30s`, `15m`, `2h` or `7d`.
///
/// # Errors
/// What a time looks like.
pub fn when(text: &str) -> Result<When, &'static str> {
    if let Ok(age) = words::age(text) {
        return Ok(When::Ago(age));
    }
    let says = "a time is 2026-03-29T10:00:00Z or 2026-03-29T12:00:00+02:00, or an age: 30s, 15m, 2h or 7d";
    DateTime::parse_from_rfc3339(text).map(|time| When::At(time.timestamp_millis())).map_err(|_| says)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_words() {
        assert_eq!(Selection::default().to_string(), "all");
        assert!(!Selection::default().names_something());
        let selection = Selection {
            key: Some(("order".to_owned(), "7".to_owned())),
            from_ms: Some(0),
            ..Selection::default()
        };
        assert_eq!(selection.to_string(), "key = order/7, published from = 1970-01-01T00:00:00.000Z");
        assert!(selection.names_something());
    }

    #[test]
    fn a_time_is_a_time_or_an_age() {
        for (text, ms) in [
            ("1970-01-01T00:00:01Z", 1_000),
            ("1970-01-01T02:00:00.5+02:00", 500),
            ("30s", 70_000),
            ("1h", -3_500_000),
        ] {
            assert_eq!(when(text).map(|when| when.ms(100_000)), Ok(ms), "{text}");
        }
        for text in ["", "yesterday", "2026-03-29", "2026-03-29T10:00:00", "-1h"] {
            assert!(when(text).is_err(), "{text}");
        }
    }
}

//! Ages, keys, states and places in a list as operators write them, on the command line and over HTTP.

use std::time::Duration;

use uuid::Uuid;

use crate::lane::{ParkState, RowId};

/// An ordering key: `aggregatetype` and `aggregateid`.
pub type Key = (String, String);

/// `30s`, `15m`, `2h` or `7d`.
///
/// # Errors
/// What an age looks like.
pub fn age(text: &str) -> Result<Duration, &'static str> {
    let seconds = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)]
        .into_iter()
        .find_map(|(unit, seconds)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(seconds));
    seconds.map(Duration::from_secs).ok_or("an age is a number and a unit: 30s, 15m, 2h or 7d")
}

/// `order/4711`: what is before the first slash, and all that is behind it.
///
/// # Errors
/// What a key looks like.
pub fn key(text: &str) -> Result<Key, &'static str> {
    let (aggregatetype, aggregateid) =
        text.split_once('/').ok_or("a key is AGGREGATETYPE/AGGREGATEID, for instance order/4711")?;
    Ok((aggregatetype.to_owned(), aggregateid.to_owned()))
}

/// The last message of a page, as `12:018f2c5e-7b1a-7c3d-9e4f-0123456789ab`.
///
/// # Errors
/// What it looks like.
pub fn after(text: &str) -> Result<RowId, &'static str> {
    let parts = text
        .split_once(':')
        .and_then(|(seq, id)| Some(RowId { seq: seq.parse().ok()?, id: Uuid::try_parse(id).ok()? }));
    parts.ok_or("the end of a page is SEQ:ID, as the page before says it")
}

/// The end of a page, as [`after`] reads it.
#[must_use]
pub fn end(row: RowId) -> String {
    format!("{}:{}", row.seq, row.id)
}

/// `poison`, `behind` or `skipped`.
///
/// # Errors
/// Which states there are.
pub fn state(text: &str) -> Result<ParkState, &'static str> {
    let all = [ParkState::Poison, ParkState::Behind, ParkState::Skipped];
    all.into_iter().find(|state| state.as_str() == text).ok_or("a state is poison, behind or skipped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_keys_and_ends_of_pages() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("2h", 7_200), ("7d", 604_800)] {
            assert_eq!(age(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "7", "h", "-1h", "1.5h", "99999999999999999999d"] {
            assert!(age(text).is_err(), "{text}");
        }
        assert_eq!(key("order/a/b"), Ok(("order".to_owned(), "a/b".to_owned())));
        assert!(key("order").is_err());
        let id = Uuid::from_u128(7);
        let row = RowId { seq: 12, id };
        assert_eq!(after(&end(row)), Ok(row));
        assert!(after("12").is_err() && after("x:y").is_err());
        assert_eq!(state("behind"), Ok(ParkState::Behind));
        assert!(state("Poison").is_err());
    }
}

//! From the row in `relay_source` to a [`Holder`]: what is the same for all databases.

use std::time::Duration;

use crate::lease::{Epoch, Holder};

/// Before the first relay.
pub(super) fn nobody() -> Holder {
    Holder {
        epoch: Epoch(0),
        renewals: 0,
        owner: "nobody".to_owned(),
        process: String::new(),
        lease: Duration::ZERO,
        until: None,
        left: Duration::ZERO,
    }
}

/// Milliseconds; what lies in the past is zero.
pub(super) fn millis(number: i64) -> Duration {
    Duration::from_millis(u64::try_from(number).unwrap_or(0))
}

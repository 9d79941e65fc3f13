//! What a replay did, as programs read it.

use serde_json::{Value, json};

use super::Replayed;
use crate::parked::json::time;

/// What was replayed, or would be.
#[must_use]
pub fn replayed(replayed: &Replayed) -> Value {
    let Replayed { source, selection, found, messages } = replayed;
    json!({
        "action": "replay", "source": source, "selection": selection, "messages": messages.unwrap_or(found.messages),
        "keys": found.keys, "published_from": time(found.from_ms), "published_until": time(found.until_ms),
        "dry_run": messages.is_none(),
    })
}

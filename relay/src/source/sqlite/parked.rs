//! The parked messages of a SQLite file.

use barid::store::held::HeldTransaction;
use sqlx::{Sqlite, SqlitePool};

use crate::source::parked::{Words, parked_store};

pub(super) const WORDS: Words = Words {
    ms: ("", ""),
    ago: ("CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - ", ""),
    at: ("", ""),
    now: "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    name: "type",
    headers: "headers",
    payload_bytes: "length(payload)",
    key: "aggregatetype || '/' || aggregateid",
    db_user: "''",
    release: "INSERT INTO relay_released (source, times) VALUES (?, 1) ON CONFLICT (source) DO UPDATE SET times = times + 1",
};

/// One writer at a time, so nobody changes anything in between.
pub(super) async fn begin(pool: &SqlitePool) -> Result<HeldTransaction<Sqlite>, sqlx::Error> {
    HeldTransaction::begin_immediate(pool).await
}

parked_store!(SqliteParked, Sqlite, &WORDS, begin);

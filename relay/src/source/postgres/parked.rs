//! The parked messages of a PostgreSQL database.

use barid::store::held::HeldTransaction;
use sqlx::{PgPool, Postgres};

use crate::source::parked::{Words, parked_store};

pub(super) const WORDS: Words = Words {
    ms: ("(extract(epoch FROM ", ") * 1000)::bigint"),
    ago: ("now() - interval '1 millisecond' * ", ""),
    at: ("timestamptz 'epoch' + interval '1 millisecond' * ", ""),
    now: "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    name: "type",
    headers: "headers::text",
    payload_bytes: "octet_length(payload)::bigint",
    key: "aggregatetype || '/' || aggregateid",
    db_user: "current_user",
    release: "INSERT INTO relay_released AS r (source, times) VALUES ($1, 1) ON CONFLICT (source) DO UPDATE \
        SET times = r.times + 1",
};

/// READ COMMITTED: a row that another operator has just changed is looked at again under its lock.
pub(super) async fn begin(pool: &PgPool) -> Result<HeldTransaction<Postgres>, sqlx::Error> {
    HeldTransaction::<Postgres>::begin(pool, "BEGIN ISOLATION LEVEL READ COMMITTED").await
}

parked_store!(PostgresParked, Postgres, &WORDS, begin);

//! The tables of the event store on PostgreSQL.

use sqlx::{Postgres, Row, postgres::PgRow};
use uuid::Uuid;

use crate::store::events::EventRows;

impl EventRows for Postgres {
    const EVENT_COLUMNS: &'static str = "id,stream,version,position,name,data,metadata::text,(extract(epoch FROM recorded_at)*1000000)::bigint";
    const OR_KEEP_STREAM: &'static str = "ON CONFLICT DO NOTHING";
    const OR_KEEP_XID: &'static str = "ON CONFLICT DO NOTHING";
    const OR_KEEP_SUBSCRIPTION: &'static str = "ON CONFLICT DO NOTHING";
    const STREAM: &'static str = "stream";
    const OR_NEWER_SNAPSHOT: &'static str = "ON CONFLICT(stream,format)DO UPDATE SET version=excluded.version,data=excluded.data,\
         taken_at=excluded.taken_at WHERE event_snapshot.version<excluded.version";
    const AND_LOCK: &'static str = " FOR UPDATE";

    fn id_at(row: &PgRow, at: usize) -> Result<Uuid, sqlx::Error> {
        row.try_get(at)
    }

    fn int_at(row: &PgRow, at: usize) -> Result<Option<i64>, sqlx::Error> {
        row.try_get(at)
    }

    fn text_at(row: &PgRow, at: usize) -> Result<Option<String>, sqlx::Error> {
        row.try_get(at)
    }

    fn bytes_at(row: &PgRow, at: usize) -> Result<Option<Vec<u8>>, sqlx::Error> {
        row.try_get(at)
    }
}

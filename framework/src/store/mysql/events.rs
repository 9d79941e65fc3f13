//! The tables of the event store on MariaDB and MySQL.

use sqlx::{MySql, Row, mysql::MySqlRow};
use uuid::Uuid;

use crate::store::events::EventRows;

impl EventRows for MySql {
    const EVENT_COLUMNS: &'static str = "id,CONVERT(stream USING utf8mb4),version,position,name,data,metadata,\
         TIMESTAMPDIFF(MICROSECOND,'1970-01-01',recorded_at)";
    const OR_KEEP_STREAM: &'static str = "ON DUPLICATE KEY UPDATE stream=stream";
    const OR_KEEP_XID: &'static str = "ON DUPLICATE KEY UPDATE xid=xid";
    const OR_KEEP_SUBSCRIPTION: &'static str = "ON DUPLICATE KEY UPDATE subscription=subscription";
    const STREAM: &'static str = "CONVERT(stream USING utf8mb4)";
    const OR_NEWER_SNAPSHOT: &'static str = "ON DUPLICATE KEY UPDATE data=IF(VALUES(version)>version,VALUES(data),data),\
         taken_at=IF(VALUES(version)>version,VALUES(taken_at),taken_at),version=GREATEST(version,VALUES(version))";
    const AND_LOCK: &'static str = " FOR UPDATE";

    fn id_at(row: &MySqlRow, at: usize) -> Result<Uuid, sqlx::Error> {
        row.try_get(at)
    }

    fn int_at(row: &MySqlRow, at: usize) -> Result<Option<i64>, sqlx::Error> {
        row.try_get(at)
    }

    fn text_at(row: &MySqlRow, at: usize) -> Result<Option<String>, sqlx::Error> {
        row.try_get(at)
    }

    fn bytes_at(row: &MySqlRow, at: usize) -> Result<Option<Vec<u8>>, sqlx::Error> {
        row.try_get(at)
    }
}

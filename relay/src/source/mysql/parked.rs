//! The parked messages of a MariaDB or MySQL database.

use barid::store::held::HeldTransaction;
use sqlx::{MySql, MySqlPool};

use crate::source::parked::{Words, parked_store};

pub(super) const WORDS: Words = Words {
    ms: ("CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', ", ") DIV 1000 AS SIGNED)"),
    ago: ("UTC_TIMESTAMP(6) - INTERVAL (", " * 1000) MICROSECOND"),
    at: ("TIMESTAMP('1970-01-01') + INTERVAL (", " * 1000) MICROSECOND"),
    now: "CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000 AS SIGNED)",
    name: "`type`",
    headers: "headers",
    payload_bytes: "CAST(LENGTH(payload) AS SIGNED)",
    key: "CONCAT(aggregatetype, '/', aggregateid)",
    db_user: "CURRENT_USER()",
    release: "INSERT INTO relay_released (source, times) VALUES (?, 1) ON DUPLICATE KEY UPDATE times = times + 1",
};

/// READ COMMITTED: no gap locks, which would hold up the relay's parking.
pub(super) async fn begin(pool: &MySqlPool) -> Result<HeldTransaction<MySql>, sqlx::Error> {
    let text = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION";
    HeldTransaction::<MySql>::begin(pool, text).await
}

parked_store!(MySqlParked, MySql, &WORDS, begin);

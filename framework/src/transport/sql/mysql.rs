//! The statements of the queue on MariaDB and MySQL.

use std::{fmt::Write as _, time::Duration};

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, MySqlPool, QueryBuilder};
use uuid::Uuid;

use super::{
    error,
    queue::{Claim, Claimed, Head, KEYS_MAX, NewRow, Statements, Targets, micros},
};
use crate::{store::held::HeldTransaction, transport::Outcome};

pub(super) struct MySql(pub(super) MySqlPool);

/// A plain SELECT on purpose: it reads everything from one snapshot. A locking read would see the newest rows, and could take
/// a row whose key had an earlier one in the snapshot of the grouping.
const DUE: &str = "
SELECT * FROM (
  SELECT seq, CAST(NULL AS CHAR(300)) AS ordering_key FROM queue_message
  WHERE queue = ? AND ordering_key IS NULL AND visible_at <= UTC_TIMESTAMP(6)
    AND (claimed_until IS NULL OR claimed_until <= UTC_TIMESTAMP(6))
  ORDER BY seq LIMIT ?) free
UNION ALL
SELECT m.seq, h.ordering_key FROM (
  SELECT ordering_key, MIN(seq) AS seq FROM queue_message
  WHERE queue = ? AND ordering_key > ? GROUP BY ordering_key ORDER BY ordering_key LIMIT ?) h
LEFT JOIN queue_message m
  ON m.seq = h.seq AND m.visible_at <= UTC_TIMESTAMP(6)
    AND (m.claimed_until IS NULL OR m.claimed_until <= UTC_TIMESTAMP(6))";

/// Rows of one INSERT: few enough for the packet and the 65,535 parameters of a statement.
const INSERT_ROWS_MAX: usize = 500;
/// Bytes of bodies of one INSERT, unless it is a single row: below `max_allowed_packet`, which is 16 MiB by default.
const INSERT_BYTES_MAX: usize = 4 * 1024 * 1024;

#[async_trait]
impl Statements for MySql {
    async fn declare(&self, queue: &str, topics: &[String]) -> Result<(), sqlx::Error> {
        let declared =
            "INSERT INTO queue_declared (queue) VALUES (?) ON DUPLICATE KEY UPDATE queue = VALUES(queue)";
        sqlx::query(declared).bind(queue).execute(&self.0).await?;
        for topic in topics {
            let subscribed = "INSERT INTO queue_subscription (topic, queue) VALUES (?, ?) ON DUPLICATE KEY UPDATE queue = VALUES(queue)";
            sqlx::query(subscribed).bind(topic).bind(queue).execute(&self.0).await?;
        }
        Ok(())
    }

    async fn unsubscribe(&self, queue: &str, topic: &str) -> Result<(), sqlx::Error> {
        let unsubscribe = "DELETE FROM queue_subscription WHERE topic = ? AND queue = ?";
        sqlx::query(unsubscribe).bind(topic).bind(queue).execute(&self.0).await.map(drop)
    }

    async fn targets(&self, queues: &[String], topics: &[String]) -> Result<Targets, sqlx::Error> {
        // '' is nobody's name, and keeps the lists from being empty.
        let mut query = QueryBuilder::new("SELECT topic, queue FROM queue_subscription WHERE topic IN (''");
        for topic in topics {
            query.push(", ").push_bind(topic);
        }
        query.push(") UNION ALL SELECT '', queue FROM queue_declared WHERE queue IN (''");
        for queue in queues {
            query.push(", ").push_bind(queue);
        }
        let pairs = query.push(")").build_query_as().persistent(false).fetch_all(&self.0).await?;
        Ok(Targets::from_pairs(pairs))
    }

    async fn insert(&self, rows: &[NewRow]) -> Result<(), Outcome> {
        let not_written = |error| error::not_written(&error);
        let begin = HeldTransaction::<sqlx::MySql>::begin(&self.0, "START TRANSACTION");
        let mut held = begin.await.map_err(not_written)?;
        for rows in chunks(rows) {
            let mut insert =
                QueryBuilder::new("INSERT INTO queue_message (queue, id, ordering_key, headers, body) ");
            insert.push_values(rows, |mut values, row| {
                values.push_bind(&row.queue).push_bind(row.id).push_bind(&row.ordering_key);
                values.push_bind(&row.headers).push_bind(row.body.as_ref());
            });
            insert.build().persistent(false).execute(held.connection()).await.map_err(not_written)?;
        }
        held.commit().await.map_err(|error| error::not_committed(&error))
    }

    async fn due(&self, queue: &str, after_key: &str, rows_max: i64) -> Result<Vec<Head>, sqlx::Error> {
        let due = sqlx::query_as(DUE).bind(queue).bind(rows_max).bind(queue).bind(after_key).bind(KEYS_MAX);
        due.fetch_all(&self.0).await
    }

    async fn take(&self, claim: Uuid, seqs: &[i64], lease: Duration) -> Result<Vec<Claimed>, sqlx::Error> {
        let (seqs, claim, lease) = (list(seqs), claim.simple(), micros(lease));
        let text = format!(
            "UPDATE queue_message SET claimed_by = X'{claim}', deliveries = deliveries + 1,
               claimed_until = UTC_TIMESTAMP(6) + INTERVAL {lease} MICROSECOND
             WHERE seq IN ({seqs}) AND visible_at <= UTC_TIMESTAMP(6)
               AND (claimed_until IS NULL OR claimed_until <= UTC_TIMESTAMP(6));
             SELECT seq, deliveries, headers, body FROM queue_message WHERE seq IN ({seqs}) AND claimed_by = X'{claim}'"
        );
        // Nothing but integers and hex went into the text.
        let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&self.0).await?;
        rows.iter().map(|row| sqlx::FromRow::from_row(row).map(<(i64, i32, String, Vec<u8>)>::into)).collect()
    }

    async fn renew(&self, claim: Uuid, seqs: &[i64], lease: Duration) -> Result<(), sqlx::Error> {
        let until = format!("claimed_until = UTC_TIMESTAMP(6) + INTERVAL {} MICROSECOND", micros(lease));
        self.change_claimed(claim, seqs, &until).await
    }

    async fn give_back(&self, claim: Uuid, seqs: &[i64]) -> Result<(), sqlx::Error> {
        let free = "claimed_by = NULL, claimed_until = NULL, deliveries = deliveries - 1";
        self.change_claimed(claim, seqs, free).await
    }

    async fn ack(&self, claims: &[Claim]) -> Result<Vec<i64>, sqlx::Error> {
        let seqs: Vec<i64> = claims.iter().map(|claim| claim.seq).collect();
        let pairs: Vec<String> =
            claims.iter().map(|claim| format!("({}, X'{}')", claim.seq, claim.id.simple())).collect();
        let (among, pairs) = (list(&seqs), pairs.join(", "));
        let text =
            format!("DELETE FROM queue_message WHERE seq IN ({among}) AND (seq, claimed_by) IN ({pairs})");
        let deleted = sqlx::raw_sql(AssertSqlSafe(text)).execute(&self.0).await?.rows_affected();
        if usize::try_from(deleted) == Ok(claims.len()) {
            return Ok(seqs);
        }
        // MySQL's DELETE returns no rows. What is still there was not deleted; what is not there never comes again.
        let text = format!("SELECT seq FROM queue_message WHERE seq IN ({among})");
        let left: Vec<i64> =
            sqlx::query_scalar(AssertSqlSafe(text)).persistent(false).fetch_all(&self.0).await?;
        Ok(seqs.into_iter().filter(|seq| !left.contains(seq)).collect())
    }

    async fn nack(&self, claim: Uuid, seq: i64, after: Duration) -> Result<bool, sqlx::Error> {
        let nack = "UPDATE queue_message
                    SET claimed_by = NULL, claimed_until = NULL, visible_at = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND
                    WHERE seq = ? AND claimed_by = ?";
        let nack = sqlx::query(nack).bind(micros(after)).bind(seq).bind(claim);
        Ok(nack.execute(&self.0).await?.rows_affected() == 1)
    }
}

impl MySql {
    /// Sets `change` on those of `seqs` that `claim` still holds. `change` is a fixed text with integers in it.
    async fn change_claimed(&self, claim: Uuid, seqs: &[i64], change: &str) -> Result<(), sqlx::Error> {
        let (seqs, claim) = (list(seqs), claim.simple());
        let text =
            format!("UPDATE queue_message SET {change} WHERE seq IN ({seqs}) AND claimed_by = X'{claim}'");
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&self.0).await.map(drop)
    }
}

/// `1,2,3`; a list that is empty would not be SQL, so there is always a 0, which no row has.
fn list(seqs: &[i64]) -> String {
    seqs.iter().fold("0".to_owned(), |mut text, seq| {
        // Writing to a String cannot fail.
        let _ = write!(text, ",{seq}");
        text
    })
}

/// `rows` in pieces that fit into one statement each.
fn chunks(mut rows: &[NewRow]) -> impl Iterator<Item = &[NewRow]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rows.iter().take(INSERT_ROWS_MAX).take_while(|row| {
            bytes += row.body.len() + row.headers.len();
            bytes <= INSERT_BYTES_MAX
        });
        let (chunk, rest) = rows.split_at(fits.count().max(1).min(rows.len()));
        rows = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_lose_nothing_and_fit() {
        let row = |bytes| NewRow {
            queue: "q".to_owned(),
            id: Uuid::nil(),
            ordering_key: None,
            headers: String::new(),
            body: vec![0; bytes].into(),
        };
        let check = |rows: Vec<NewRow>, expected: &[usize]| {
            assert_eq!(chunks(&rows).map(<[NewRow]>::len).collect::<Vec<_>>(), expected);
        };
        check(vec![], &[]);
        check(vec![row(1); 1_001], &[500, 500, 1]);
        check(vec![row(INSERT_BYTES_MAX), row(1), row(INSERT_BYTES_MAX + 1), row(1)], &[1, 1, 1, 1]);
        check(vec![row(INSERT_BYTES_MAX / 2), row(INSERT_BYTES_MAX / 2), row(1)], &[2, 1]);
    }
}

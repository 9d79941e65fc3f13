//! The ledger: what became of every order, counted from tables when all is over.
//!
//! It trusts no variable of the program and nothing that the framework says: an attempt was rolled back when no order has its
//! id, a message was lost when its order is there and it did not arrive.

use std::fmt;

use barid::store::AnyPool;

use crate::Shop;

/// What the tables say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Commands whose order was committed.
    pub committed: u64,
    /// Announcements that reached the shipping queue, each counted once.
    pub delivered: u64,
    /// Announcements that were shipped, each counted once.
    pub handled: u64,
    /// Attempts that no order came from.
    pub rolled_back: u64,
    /// Deliveries of an announcement after its first one.
    pub redelivered: u64,
    /// Crashes of the relay with messages on their way.
    pub crashes: u64,
    /// Committed orders that were not delivered, or not shipped.
    pub lost: u64,
    /// Announcements that were delivered or shipped, and no committed order made them.
    pub phantom: u64,
    /// Orders beyond the first of a command, and shipments beyond the first of an announcement.
    pub effects_twice: u64,
    /// First deliveries that came after one with a later number of the same customer. Numbers are given out under the
    /// customer's lock, in the order of the commits.
    pub order_breaks: u64,
}

/// One number a column, in the order of the fields.
const COUNT: &str = "
WITH delivery AS (
  SELECT seq, message_id FROM journal_deliveries WHERE message = 'orders.placed'
), first_delivery AS (
  SELECT min(seq) AS at, message_id FROM delivery GROUP BY message_id
), arrival AS (
  SELECT o.number, max(o.number) OVER (
    PARTITION BY o.customer ORDER BY f.at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS highest_before
  FROM first_delivery f JOIN orders o ON o.event_id = f.message_id
), arrived AS (
  SELECT message_id FROM first_delivery UNION SELECT event_id FROM shipments
)
SELECT
  (SELECT count(DISTINCT command_id) FROM orders),
  (SELECT count(*) FROM first_delivery),
  (SELECT count(DISTINCT event_id) FROM shipments),
  (SELECT count(*) FROM journal_attempts a
    WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.attempt_id = a.attempt_id)),
  (SELECT count(*) FROM delivery) - (SELECT count(*) FROM first_delivery),
  (SELECT count(*) FROM journal_crashes WHERE in_flight > 0),
  (SELECT count(*) FROM orders o
    WHERE NOT EXISTS (SELECT 1 FROM journal_deliveries d WHERE d.message_id = o.event_id)
       OR NOT EXISTS (SELECT 1 FROM shipments s WHERE s.event_id = o.event_id)),
  (SELECT count(*) FROM arrived a WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.event_id = a.message_id)),
  (SELECT count(*) - count(DISTINCT command_id) FROM orders)
    + (SELECT count(*) - count(DISTINCT event_id) FROM shipments),
  (SELECT count(*) FROM arrival WHERE number < highest_before)
";

type Counts = (i64, i64, i64, i64, i64, i64, i64, i64, i64, i64);

impl Ledger {
    /// Counts the tables of `shop`.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn count(shop: &Shop) -> anyhow::Result<Self> {
        let counts = match (&shop.pool, shop.journal.pool()) {
            (AnyPool::Sqlite(pool), AnyPool::Sqlite(journal)) => {
                let file = journal.connect_options().get_filename().display().to_string();
                // Not returned to the pool, so that the attached file is closed with it.
                let mut connection = pool.acquire().await?.detach();
                sqlx::query("ATTACH DATABASE $1 AS journal").bind(file).execute(&mut connection).await?;
                let counts: Counts = sqlx::query_as(COUNT).fetch_one(&mut connection).await?;
                sqlx::Connection::close(connection).await?;
                counts
            }
            (pool, _) => on_database!(pool, pool => sqlx::query_as(COUNT).fetch_one(pool).await)?,
        };
        let number = i64::unsigned_abs;
        Ok(Self {
            committed: number(counts.0),
            delivered: number(counts.1),
            handled: number(counts.2),
            rolled_back: number(counts.3),
            redelivered: number(counts.4),
            crashes: number(counts.5),
            lost: number(counts.6),
            phantom: number(counts.7),
            effects_twice: number(counts.8),
            order_breaks: number(counts.9),
        })
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn promises_kept(&self) -> bool {
        [self.lost, self.phantom, self.effects_twice, self.order_breaks] == [0; 4]
    }

    /// Whether everything went wrong that should: a run without misfortune shows nothing.
    #[must_use]
    pub fn misfortune_struck(&self) -> bool {
        self.rolled_back > 0 && self.redelivered > 0 && self.crashes > 0
    }

    /// What happened, in sentences.
    #[must_use]
    pub fn story(&self) -> String {
        let Self { committed, rolled_back, redelivered, .. } = self;
        let crashed = if self.crashes == 1 { "once".to_owned() } else { format!("{} times", self.crashes) };
        format!(
            "{committed} orders were committed, each with its announcement in the same transaction. On purpose, this went wrong:
* {rolled_back} attempts of a handler failed after the order was written. They were rolled back and tried again;
  of what they had written and wanted to send nothing was left (promise P: phantom={}).
* The relay crashed {crashed} in the middle of its work. The next one found in the outbox what was not certainly
  delivered, and sent it, some of it again (promise L: lost={}).
* {redelivered} deliveries were repeats, after the crash or because the sender said it twice. Each carried the id of the
  first one, was recognised and had no second effect (promises D and E: effects_twice={}).
* The announcements of each customer arrived in the order in which the orders were committed
  (promise O: order_breaks={}).",
            self.phantom, self.lost, self.effects_twice, self.order_breaks
        )
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ledger: committed={} delivered={} handled={} rolled_back={} redelivered={} crashes={} lost={} phantom={} \
             effects_twice={} order_breaks={}",
            self.committed,
            self.delivered,
            self.handled,
            self.rolled_back,
            self.redelivered,
            self.crashes,
            self.lost,
            self.phantom,
            self.effects_twice,
            self.order_breaks
        )
    }
}

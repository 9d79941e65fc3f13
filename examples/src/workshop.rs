//! What the small examples share: a SQLite file in a temporary folder with Barid's tables, queues in it, and a relay.
//!
//! Each example is one file beside this folder that shows one thing, checks that it happened, and ends with status 1 when it
//! did not. What a service would write itself is in those files; this one only keeps them short.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use barid::{
    Bus, BusBuilder, Destination, Doorbell, Message, Outgoing, Sender, SqlIdempotency, SqlOutbox, SqlQueue,
    SqlUnitOfWork,
    store::{AnyPool, schema},
};
use barid_relay::{Relay, lane::Order, sink::Sink, source};
use sqlx::SqlitePool;
use tempfile::TempDir;
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;

/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(30);
const CONNECTIONS: u32 = 20;

/// A place to try things in. It is gone when it is closed or dropped.
pub struct Workshop {
    /// The database, with Barid's tables and the example's own.
    pub pool: SqlitePool,
    /// The broker: queues in the same database. With RabbitMQ or Kafka only this differs.
    pub queue: SqlQueue,
    sender: Sender,
    doorbell: Doorbell,
    running: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
    // Last, so that the file goes when everything that has it open is gone.
    _folder: TempDir,
}

impl Workshop {
    /// A new database with these tables, and a relay that carries its outbox to its queues.
    ///
    /// # Errors
    /// When the file cannot be made, or a statement is wrong.
    pub async fn open(tables: &'static str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("barid-example-").tempdir()?;
        let url = format!("sqlite://{}", folder.path().join("example.db").display());
        let any = AnyPool::connect(&url, CONNECTIONS).await?;
        schema::apply(&any).await?;
        let AnyPool::Sqlite(pool) = any.clone() else { bail!("{url} is not SQLite") };
        sqlx::raw_sql(tables).execute(&pool).await.context("the tables of the example")?;

        let queue = SqlQueue::new(any.clone());
        let relay = Relay::builder(source::open::source("example", &any))
            .sink(Sink::new("queues", Arc::new(queue.clone())))
            .route("*", "queues", Order::Strict)
            .build()?;
        let (doorbell, stop, mut running) = (relay.doorbell(), CancellationToken::new(), JoinSet::new());
        let stopped = stop.clone().cancelled_owned();
        running.spawn(async move { Ok(relay.run_until(stopped).await.map(drop)?) });
        let sender = Sender::connect(&queue, "example").await?;
        Ok(Self { pool, queue, sender, doorbell, running, stop, _folder: folder })
    }

    /// A bus as a service has it: business rows, outgoing messages and the idempotency record commit together.
    pub fn bus(&self, name: &str) -> BusBuilder {
        Bus::builder(name)
            .transport(self.queue.clone())
            .unit_of_work(SqlUnitOfWork::new(self.pool.clone()).commit_with_transaction(true))
            .outbox(SqlOutbox::new().doorbell(self.doorbell.clone()))
            .idempotency(SqlIdempotency::new())
    }

    /// Makes the bus's queue and runs the bus until the workshop is closed.
    ///
    /// # Errors
    /// When the queue cannot be made.
    pub async fn start(&mut self, bus: &Bus) -> anyhow::Result<()> {
        bus.declare().await?;
        let (bus, stopped) = (bus.clone(), self.stop.clone().cancelled_owned());
        self.running.spawn(async move { Ok(bus.run_until(stopped).await?) });
        Ok(())
    }

    /// Sends a message to a queue, as another service would.
    ///
    /// # Errors
    /// When the queue did not take it.
    pub async fn send<M: Message>(&self, queue: &str, message: M) -> anyhow::Result<()> {
        let sent = self.sender.send(Outgoing::new(message).to(Destination::queue(queue)?)).await;
        sent.map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// The number that a query finds.
    ///
    /// # Errors
    /// When the query is wrong.
    pub async fn number(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.pool).await?)
    }

    /// Waits until a query finds this number.
    ///
    /// # Errors
    /// When it does not within 30 s, or something that runs in the workshop failed.
    pub async fn becomes(&mut self, sql: &'static str, expected: i64) -> anyhow::Result<()> {
        let mut look = time::interval(Duration::from_millis(10));
        let asked = async {
            loop {
                look.tick().await;
                if sqlx::query_scalar::<_, i64>(sql).fetch_one(&self.pool).await? == expected {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::select! {
            found = time::timeout(PATIENCE, asked) => match found {
                Ok(found) => found,
                Err(_) => bail!("{sql} is {} and not {expected}", self.number(sql).await?),
            },
            Some(ended) = self.running.join_next() => {
                ended??;
                bail!("something stopped by itself")
            }
        }
    }

    /// Stops what runs.
    ///
    /// # Errors
    /// When something failed while it ran or stopped.
    pub async fn close(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended??;
        }
        self.pool.close().await;
        Ok(())
    }
}

//! What really happened, written while it happened and outside every unit of work, so that what is rolled back leaves a trace.

use async_trait::async_trait;
use barid::{
    Headers, Transport, headers,
    store::AnyPool,
    transport::{Consumer, Delivery, Inbox, Promises, Publisher, TransportError},
};
use uuid::Uuid;

/// The journal. On SQLite it is a file of its own: the shop's file has one writer, and that is the unit of work.
#[derive(Clone, Debug)]
pub struct Journal(AnyPool);

impl Journal {
    /// The journal in the database of `pool`, which has its tables.
    pub(crate) fn new(pool: AnyPool) -> Self {
        Self(pool)
    }

    /// The database that it is in.
    #[must_use]
    pub fn pool(&self) -> &AnyPool {
        &self.0
    }

    /// A handler begins an attempt at `command`; the id goes into the order that it writes. An attempt whose id is in no
    /// order was rolled back.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn attempt(&self, command: Uuid) -> Result<Uuid, sqlx::Error> {
        let attempt = Uuid::now_v7();
        let sql = "INSERT INTO journal_attempts (attempt_id, command_id) VALUES ($1, $2)";
        on_database!(&self.0, pool => sqlx::query(sql).bind(attempt).bind(command).execute(pool).await.map(drop))
            .map_err(unwritten)?;
        Ok(attempt)
    }

    /// The relay has crashed with `in_flight` messages on their way.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn crash(&self, in_flight: i64) -> anyhow::Result<()> {
        let sql = "INSERT INTO journal_crashes (in_flight) VALUES ($1)";
        on_database!(&self.0, pool => sqlx::query(sql).bind(in_flight).execute(pool).await.map(drop))
    }

    /// `transport`, with every delivery written down in the order of arrival.
    #[must_use]
    pub fn watch<T: Transport>(&self, transport: T) -> Watched<T> {
        Watched { transport, journal: self.clone() }
    }

    async fn delivery(&self, headers: Headers) -> Result<(), sqlx::Error> {
        let header = |name| headers.get(name).unwrap_or_default();
        let id: Uuid = header(headers::ID).parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let sql = "INSERT INTO journal_deliveries (message_id, message, customer) VALUES ($1, $2, $3)";
        on_database!(&self.0, pool => {
            let insert = sqlx::query(sql).bind(id).bind(header(headers::TYPE)).bind(header(headers::KEY));
            insert.execute(pool).await.map(drop)
        })
        .map_err(unwritten)
    }
}

/// Back to the type that handlers and transports know.
fn unwritten(error: anyhow::Error) -> sqlx::Error {
    error.downcast().unwrap_or_else(|other| sqlx::Error::Protocol(other.to_string()))
}

/// A transport whose deliveries are written down.
#[derive(Clone, Debug)]
pub struct Watched<T> {
    transport: T,
    journal: Journal,
}

#[async_trait]
impl<T: Transport> Transport for Watched<T> {
    fn promises(&self) -> Promises {
        self.transport.promises()
    }

    async fn declare(&self, inbox: &Inbox) -> Result<(), TransportError> {
        self.transport.declare(inbox).await
    }

    async fn consumer(&self, inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        let consumer = self.transport.consumer(inbox).await?;
        Ok(Box::new(WatchedConsumer { consumer, journal: self.journal.clone(), received: None }))
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        self.transport.publisher().await
    }
}

struct WatchedConsumer {
    consumer: Box<dyn Consumer>,
    journal: Journal,
    /// Received and perhaps not yet written down, when a call was dropped or the journal could not be written.
    received: Option<Delivery>,
}

#[async_trait]
impl Consumer for WatchedConsumer {
    async fn receive(&mut self) -> Result<Delivery, TransportError> {
        let delivery = match self.received.take() {
            Some(delivery) => self.received.insert(delivery),
            None => self.received.insert(self.consumer.receive().await?),
        };
        // One after the other, so that the order of the journal is the order of arrival.
        let headers = delivery.headers.clone();
        let written = self.journal.delivery(headers).await;
        written.map_err(|error| TransportError::Database(format!("the journal of deliveries: {error}")))?;
        let delivery = self.received.take();
        delivery.ok_or_else(|| TransportError::Database("a delivery was lost on its way".to_owned()))
    }

    async fn close(self: Box<Self>) -> Result<(), TransportError> {
        self.consumer.close().await
    }
}

//! Appending in the unit of work of a message: with it or not at all, and what the events say of where they come from.

use std::{sync::Arc, time::Duration};

use barid::{
    Bus, Context, Error, Headers, Memory, Message, Result, SqlOutbox, SqlUnitOfWork, State,
    event_store::{EventStore, Expected, Slice, Snapshot},
    headers,
    store::Backend,
    transport::{Delivery, Repeat, Settlement, TransportError},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{Counted, counted, on_each, stream, versions};

/// What a message does in its unit of work.
#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "things.append")]
pub(crate) struct Append {
    pub(crate) stream: String,
    pub(crate) n: u64,
    /// Waits for the gate before it ends.
    pub(crate) waits: bool,
    pub(crate) fails: bool,
}

/// Handlers that have appended, and those that may end.
pub(crate) struct Gate {
    pub(crate) appended: Semaphore,
    pub(crate) may_end: Semaphore,
}

async fn append<DB: Backend>(message: Append, gate: State<Arc<Gate>>, cx: Context) -> Result<()> {
    let name = stream(&message.stream);
    {
        let mut events = cx.events::<DB>().await?;
        let appended = events.append(&name, Expected::Any, [counted(message.n)]).await?;
        let own = events.read(&name, Slice::backward().max(1)).await?;
        assert_eq!(versions(&own.events), [appended.version], "the unit sees what it has appended");
        events.save_snapshot(&name, &Snapshot::json(appended.version, 1, &message.n)?).await?;
        assert_eq!(events.load_snapshot(&name, 1).await?.unwrap().version, appended.version);
        if let Err(conflict) = events.append(&name, Expected::NoStream, [counted(0)]).await {
            assert!(conflict.to_string().contains("expected was a stream without events"), "{conflict}");
        }
    }
    gate.0.appended.add_permits(1);
    if message.waits {
        gate.0.may_end.acquire().await.unwrap().forget();
    }
    if message.fails { Err(Error::new("on purpose")) } else { Ok(()) }
}

/// A bus whose handlers append, and its gate.
pub(crate) fn bus<DB: Backend>(pool: sqlx::Pool<DB>) -> (Bus, Arc<Gate>)
where
    SqlUnitOfWork<DB>: barid::UnitOfWork,
{
    let gate = Arc::new(Gate { appended: Semaphore::new(0), may_end: Semaphore::new(0) });
    let bus = Bus::builder("things")
        .transport(Memory::new())
        .unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true))
        .outbox(SqlOutbox::new())
        .state(Arc::clone(&gate))
        .handler(append::<DB>)
        .build()
        .unwrap();
    (bus, gate)
}

struct Nobody;

#[async_trait::async_trait]
impl Settlement for Nobody {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        Ok(())
    }
}

pub(crate) fn delivery(id: Uuid, message: &Append) -> Delivery {
    Delivery {
        headers: Headers::from_iter([
            (headers::ID, id.to_string().as_str()),
            (headers::TYPE, Append::NAME),
            (headers::CORRELATION_ID, "conversation"),
            (headers::TRACEPARENT, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ]),
        body: serde_json::to_vec(message).unwrap().into(),
        source: "things".to_owned(),
        repeat: Repeat::First,
        settlement: Box::new(Nobody),
    }
}

on_each!(events_come_with_the_unit_or_not_at_all);

mod suite {
    use super::*;

    pub(super) async fn events_come_with_the_unit_or_not_at_all<DB: Backend>(
        store: EventStore<DB>,
        pool: sqlx::Pool<DB>,
    ) {
        let (bus, _) = bus(pool);
        let message = |fails| Append { stream: "a".to_owned(), n: 7, waits: false, fails };
        let said = bus.handle(delivery(Uuid::now_v7(), &message(true))).await.unwrap_err().to_string();
        assert!(said.contains("on purpose"), "{said}");
        assert_eq!(store.version(&stream("a")).await.unwrap(), 0);
        assert!(store.read_all(Slice::forward()).await.unwrap().events.is_empty());
        assert_eq!(store.load_snapshot(&stream("a"), 1).await.unwrap(), None);

        let id = Uuid::now_v7();
        bus.handle(delivery(id, &message(false))).await.unwrap();
        let events = store.read_all(Slice::forward()).await.unwrap().events;
        assert_eq!(versions(&events), [1]);
        let event = &events[0];
        assert_eq!(event.decode::<Counted>().unwrap().n, 7);
        for (name, value) in [
            (headers::CORRELATION_ID, "conversation"),
            (headers::CAUSATION_ID, &*id.to_string()),
            (headers::TRACEPARENT, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            (headers::SOURCE, "things"),
        ] {
            assert_eq!(event.headers.get(name), Some(value), "{name}");
        }
        assert_eq!(store.load_snapshot(&stream("a"), 1).await.unwrap().unwrap().version, 1);
    }
}

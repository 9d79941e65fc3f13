//! What a bus receives, written down in the order of arrival, before anything looks at it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use barid::{
    Transport, headers,
    transport::{Consumer, Delivery, Inbox, Promises, Publisher, Repeat, TransportError},
};
use barid_tests::tape::MARK;
use uuid::Uuid;

use super::orders::OrderPlaced;

/// One delivery.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) id: Uuid,
    pub(crate) event: OrderPlaced,
    /// The broker delivered it before, and the bus gave it back.
    pub(crate) again: bool,
}

/// What a bus received so far. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    all: Mutex<Vec<Arrival>>,
    marked: AtomicBool,
}

impl Arrivals {
    pub(crate) fn all(&self) -> Vec<Arrival> {
        self.0.all.lock().unwrap().clone()
    }

    /// Whether a mark of the tape came by, after everything that was published before it.
    pub(crate) fn marked(&self) -> bool {
        self.0.marked.load(Ordering::SeqCst)
    }

    fn write_down(&self, delivery: &Delivery) {
        if delivery.headers.get(headers::TYPE) == Some(MARK) {
            self.0.marked.store(true, Ordering::SeqCst);
            return;
        }
        let arrival = Arrival {
            id: delivery.headers.get(headers::ID).unwrap().parse().unwrap(),
            event: serde_json::from_slice(&delivery.body).unwrap(),
            again: delivery.repeat == Repeat::Possible,
        };
        self.0.all.lock().unwrap().push(arrival);
    }
}

/// A transport whose deliveries are written down when they are received.
pub(crate) struct Recorded<T> {
    transport: T,
    arrivals: Arrivals,
}

impl<T> Recorded<T> {
    pub(crate) fn new(transport: T, arrivals: Arrivals) -> Self {
        Self { transport, arrivals }
    }
}

#[async_trait]
impl<T: Transport> Transport for Recorded<T> {
    fn promises(&self) -> Promises {
        self.transport.promises()
    }

    async fn declare(&self, inbox: &Inbox) -> Result<(), TransportError> {
        self.transport.declare(inbox).await
    }

    async fn consumer(&self, inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        let consumer = self.transport.consumer(inbox).await?;
        Ok(Box::new(RecordedConsumer { consumer, arrivals: self.arrivals.clone() }))
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        self.transport.publisher().await
    }
}

struct RecordedConsumer {
    consumer: Box<dyn Consumer>,
    arrivals: Arrivals,
}

#[async_trait]
impl Consumer for RecordedConsumer {
    async fn receive(&mut self) -> Result<Delivery, TransportError> {
        let delivery = self.consumer.receive().await?;
        self.arrivals.write_down(&delivery);
        Ok(delivery)
    }

    async fn close(self: Box<Self>) -> Result<(), TransportError> {
        self.consumer.close().await
    }
}

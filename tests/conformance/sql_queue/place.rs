//! A database with a queue in it, and what is sent there.

use std::time::Duration;

use barid::{
    Destination, Headers,
    store::{AnyPool, schema},
    transport::{
        Consumer, Delivery, Full, Inbox, Outcome, OutgoingRow, Publisher, Token, Transport, sql::SqlQueue,
    },
};
use uuid::Uuid;

use super::databases::{Fresh, KINDS, Kind};

/// Longer than anything here takes when it works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One database with the schema, and its queue.
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) pool: AnyPool,
    pub(crate) queue: SqlQueue,
    pub(crate) _database: Fresh,
}

/// Every database that there is a server for.
pub(crate) async fn places() -> Vec<Place> {
    let mut places = Vec::new();
    for kind in KINDS {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        schema::apply(&pool).await.unwrap();
        places.push(Place { kind, queue: SqlQueue::new(pool.clone()), pool, _database: database });
    }
    places
}

impl Place {
    pub(crate) async fn consumer(&self, inbox: &Inbox) -> Box<dyn Consumer> {
        self.queue.declare(inbox).await.unwrap();
        self.queue.consumer(inbox).await.unwrap()
    }

    /// Publishes `rows` and says what became of each, in order.
    pub(crate) async fn publish(&self, rows: &[OutgoingRow]) -> Vec<Outcome> {
        let mut publisher = self.queue.publisher().await.unwrap();
        publish(publisher.as_mut(), rows).await
    }
}

pub(crate) async fn publish(publisher: &mut dyn Publisher, rows: &[OutgoingRow]) -> Vec<Outcome> {
    let mut outcomes = vec![None; rows.len()];
    let mut next = 0;
    while outcomes.iter().any(Option::is_none) {
        while next < rows.len() && publisher.submit(&rows[next], Token(next as u64)) != Err(Full) {
            next += 1;
        }
        for (token, outcome) in within(publisher.settled()).await {
            let settled = &mut outcomes[usize::try_from(token.0).unwrap()];
            assert!(settled.replace(outcome).is_none(), "{token:?} settled twice");
        }
    }
    outcomes.into_iter().flatten().collect()
}

pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

pub(crate) async fn receive(consumer: &mut Box<dyn Consumer>) -> Delivery {
    within(consumer.receive()).await.unwrap()
}

/// What is there now: everything that comes before nothing comes for a while.
pub(crate) async fn drain(consumer: &mut Box<dyn Consumer>) -> Vec<String> {
    let mut bodies = Vec::new();
    while let Ok(delivery) = tokio::time::timeout(Duration::from_millis(300), consumer.receive()).await {
        let delivery = delivery.unwrap();
        bodies.push(body(&delivery));
        delivery.settlement.ack().await.unwrap();
    }
    bodies
}

pub(crate) fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.body.to_vec()).unwrap()
}

pub(crate) fn row(to: &str, key: Option<&str>, body: &str) -> OutgoingRow {
    OutgoingRow {
        seq: 0,
        id: Uuid::now_v7(),
        destination: to.parse::<Destination>().unwrap(),
        aggregatetype: "orders".to_owned(),
        aggregateid: key.map(str::to_owned),
        name: "orders.placed".to_owned(),
        payload: Some(body.to_owned().into()),
        headers: Headers::new(),
        tracingspancontext: None,
        wire: None,
    }
}

pub(crate) fn confirmed(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| *outcome == Outcome::Confirmed)
}

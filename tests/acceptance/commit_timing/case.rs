//! One row of the table: the bus, its handler, and what is seen from outside while it works.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use barid::{
    BuildError, Bus, Context, Destination, DuplicatePolicy, Error, Headers, Memory, Message, Outgoing,
    Result, SqlIdempotency, SqlOutbox, Stage, State, Transport, headers,
    transport::{Delivery, Inbox, Repeat, Settlement, TransportError},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    design::{Fault, Row, Seen},
    world::World,
};

/// Where the handler sends to.
const QUEUE: &str = "shipping";

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
pub(crate) struct Place {
    pub(crate) id: i64,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
pub(crate) struct Placed {
    pub(crate) id: i64,
}

/// One delivery of one message to one bus.
pub(crate) struct Case {
    row: Row,
    world: Arc<World>,
    id: i64,
    message: Uuid,
    network: Memory,
    log: Mutex<Vec<&'static str>>,
    reported: Mutex<Vec<String>>,
}

impl Case {
    pub(crate) fn new(row: Row, world: Arc<World>) -> Arc<Self> {
        static IDS: AtomicI64 = AtomicI64::new(1);
        Arc::new(Self {
            row,
            world,
            id: IDS.fetch_add(1, Ordering::Relaxed),
            message: Uuid::now_v7(),
            network: Memory::new(),
            log: Mutex::default(),
            reported: Mutex::default(),
        })
    }

    /// The bus of the row, or why there is none.
    pub(crate) fn bus(self: &Arc<Self>) -> Result<Bus, BuildError> {
        let bus =
            Bus::builder("orders").transport(self.network.clone()).state(Arc::clone(self)).handler(place);
        let mut bus = self.world.unit_of_work(bus, Some(self.row.commit_with_transaction));
        if self.row.outbox {
            bus = bus.outbox(SqlOutbox::new());
        }
        if self.row.idempotency {
            // Without an outbox a handler may only send when duplicates are invoked.
            let policy = if self.row.outbox { DuplicatePolicy::Skip } else { DuplicatePolicy::Invoke };
            bus = bus.idempotency(SqlIdempotency::new().duplicates(policy));
        }
        bus.build()
    }

    /// Delivers the message once and looks at what came of it.
    pub(crate) async fn deliver(self: &Arc<Self>, bus: &Bus) -> Seen {
        if self.row.fault != Fault::Send {
            self.network.declare(&Inbox::new(QUEUE)).await.unwrap();
        }
        let handled = bus.handle(self.delivery()).await;
        let log = self.log.lock().unwrap().clone();
        assert_eq!(
            handled.is_ok(),
            log.contains(&"ACK"),
            "what handle() says and what the transport was told"
        );
        Seen {
            stages: log,
            business_rows: self.world.business_rows(self.id).await,
            outbox_rows: self.world.outbox_rows(self.id).await,
            records: self.world.records(self.message).await,
            attempts: self.world.attempts(self.message).await,
            reported: !self.reported.lock().unwrap().is_empty(),
        }
    }

    fn delivery(self: &Arc<Self>) -> Delivery {
        Delivery {
            headers: Headers::from_iter([
                (headers::ID, self.message.to_string()),
                (headers::TYPE, Place::NAME.to_owned()),
            ]),
            body: serde_json::to_vec(&Place { id: self.id }).unwrap().into(),
            source: "orders".into(),
            repeat: if self.row.repeat { Repeat::Possible } else { Repeat::First },
            settlement: Box::new(Recording(Arc::clone(self))),
        }
    }

    /// Writes a stage down, and before it what the outside can see for the first time.
    async fn saw(&self, stage: &'static str) {
        let durable = self.world.business_rows(self.id).await > 0;
        let sent = !self.network.is_empty(QUEUE);
        let mut log = self.log.lock().unwrap();
        for (visible, seen) in [(durable, "DURABLE"), (sent, "SENT")] {
            if visible && !log.contains(&seen) {
                log.push(seen);
            }
        }
        log.push(stage);
    }

    pub(crate) fn reported(&self) -> Vec<String> {
        self.reported.lock().unwrap().clone()
    }

    fn register(self: &Arc<Self>, cx: &Context) -> Result<()> {
        let stages = [
            (Stage::BeforeCommit, "before_commit"),
            (Stage::Commit, "commit"),
            (Stage::AfterCommit, "after_commit"),
            (Stage::Rollback, "rollback"),
            (Stage::Ack, "ack"),
            (Stage::Nack, "nack"),
            (Stage::Close, "close"),
        ];
        for (stage, name) in stages {
            let case = Arc::clone(self);
            cx.transaction().on(stage, async move || {
                if stage == Stage::Rollback {
                    case.world.stop_reading().await;
                }
                case.saw(name).await;
                // The last thing before the COMMIT: the first case of the table commits after this stage.
                if stage == Stage::Commit && case.row.commit_with_transaction {
                    case.world.sabotage(case.row.fault).await;
                }
                Ok(())
            })?;
        }
        let case = Arc::clone(self);
        cx.transaction().on_error(move |error| case.reported.lock().unwrap().push(error.to_string()));
        Ok(())
    }
}

async fn place(cmd: Place, cx: Context, State(case): State<Arc<Case>>) -> Result<()> {
    case.saw("handler").await;
    case.register(&cx)?;
    case.world.business(&cx, cmd.id, case.row.fault).await?;
    cx.publish(Outgoing::new(Placed { id: cmd.id }).key(cmd.id).to(Destination::queue(QUEUE)?))?;
    if !case.row.commit_with_transaction {
        case.world.sabotage(case.row.fault).await;
    }
    match case.row.fault {
        Fault::HandlerError => Err(Error::new("asked to fail")),
        Fault::HandlerPanic => panic!("asked to panic"),
        _ => Ok(()),
    }
}

/// Writes down what the transport is told.
struct Recording(Arc<Case>);

#[async_trait::async_trait]
impl Settlement for Recording {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        self.0.saw("ACK").await;
        if self.0.row.fault == Fault::Ack {
            let (broker, cause) = ("memory".into(), "asked to fail".into());
            return Err(TransportError::Lost { broker, cause });
        }
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        self.0.saw("NACK").await;
        Ok(())
    }
}

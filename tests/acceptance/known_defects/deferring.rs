//! Messages that leave later.

use std::time::Duration;

use barid::{Context, Message, Result, SqlIdempotency, SqlOutbox, SqlSchedule};
use serde::{Deserialize, Serialize};

use crate::stage::{Place, Stage, effect, run};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.remind")]
struct Remind {
    id: i64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w20_a_deferred_message_leaves_once_with_outbox_and_unit_of_work() {
    async fn begin(cmd: Place, cx: Context) -> Result<()> {
        cx.defer(Duration::from_millis(50), Remind { id: cmd.id })?;
        Ok(())
    }
    async fn remind(cmd: Remind, cx: Context) -> Result<()> {
        effect(&cx, cmd.id).await
    }
    let stage = Stage::new().await;
    let bus =
        stage.bus().handler(begin).handler(remind).outbox(SqlOutbox::new()).schedule(SqlSchedule::new());
    let bus = bus.idempotency(SqlIdempotency::new()).build().unwrap();
    bus.declare().await.unwrap();
    let (relay, bus) = (stage.relay(), run(bus));
    stage.place(1).await;
    stage.becomes("SELECT count(*) FROM effects", 1).await;
    stage.becomes("SELECT (SELECT count(*) FROM schedule) + (SELECT count(*) FROM outbox)", 0).await;
    bus.stop().await;
    relay.stop().await;
    assert_eq!(
        (stage.number("SELECT count(*) FROM idempotency").await, stage.waiting("dead-letters").await),
        (2, 0)
    );
    stage.end().await;
}

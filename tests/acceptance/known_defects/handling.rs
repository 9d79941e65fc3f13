//! The commit and what surrounds it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use barid::{Context, Result, SqlIdempotency, SqlOutbox, State, headers};

use crate::stage::{ORDERS, Place, Placed, Stage, effect, effect_that_cannot_commit, run};

const EFFECTS: &str = "SELECT count(*) FROM effects";
const OUTBOX: &str = "SELECT count(*) FROM outbox";
const DEAD: &str = "SELECT count(*) FROM queue_message WHERE queue = 'dead-letters'";

type Calls = Arc<AtomicUsize>;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w02_a_record_that_cannot_be_written_does_not_make_the_message_vanish() {
    async fn place(cmd: Place, cx: Context) -> Result<()> {
        effect(&cx, cmd.id).await
    }
    let stage = Stage::new().await;
    stage
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'disk full'; END $$; \
             CREATE TRIGGER refuse BEFORE INSERT ON idempotency EXECUTE FUNCTION refuse()",
        )
        .await;
    let bus = stage.bus().handler(place).idempotency(SqlIdempotency::new()).build().unwrap();
    bus.declare().await.unwrap();
    stage.place(1).await;
    let bus = run(bus);
    stage.becomes(DEAD, 1).await;
    let cause = format!(
        "SELECT count(*) FROM queue_message WHERE headers->>'{}' LIKE '%disk full%'",
        headers::DEAD_CAUSE
    );
    assert_eq!(stage.number(&cause).await, 1);
    stage.execute("DROP TRIGGER refuse ON idempotency").await;
    stage.place(2).await;
    stage.becomes(EFFECTS, 1).await;
    bus.stop().await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w02b_a_message_whose_handler_failed_once_is_no_duplicate() {
    async fn place(cmd: Place, cx: Context, calls: State<Calls>) -> Result<()> {
        effect(&cx, cmd.id).await?;
        match calls.0.fetch_add(1, Ordering::SeqCst) {
            0 => Err(barid::Error::new("the first attempt fails")),
            _ => Ok(()),
        }
    }
    let (stage, calls) = (Stage::new().await, Calls::default());
    let bus = stage.bus().handler(place).state(Arc::clone(&calls)).idempotency(SqlIdempotency::new());
    let bus = bus.build().unwrap();
    bus.declare().await.unwrap();
    stage.place(1).await;
    let bus = run(bus);
    stage.becomes(EFFECTS, 1).await;
    bus.stop().await;
    assert_eq!((calls.load(Ordering::SeqCst), stage.number(DEAD).await), (2, 0));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w03_a_commit_that_always_fails_is_counted_rolled_back_and_given_up() {
    async fn place(cmd: Place, cx: Context, undone: State<Calls>) -> Result<()> {
        cx.transaction().on_rollback(async move || {
            undone.0.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })?;
        effect_that_cannot_commit(&cx, cmd.id).await
    }
    let (stage, undone) = (Stage::new().await, Calls::default());
    let bus = stage.bus().handler(place).state(Arc::clone(&undone)).outbox(SqlOutbox::new()).build().unwrap();
    bus.declare().await.unwrap();
    stage.place(1).await;
    let bus = run(bus);
    stage.becomes(DEAD, 1).await;
    bus.stop().await;
    let attempts = format!("SELECT (headers->>'{}')::bigint FROM queue_message", headers::DEAD_ATTEMPTS);
    assert_eq!((stage.number(&attempts).await, undone.load(Ordering::SeqCst)), (3, 3));
    assert_eq!((stage.number(EFFECTS).await, stage.waiting(ORDERS).await), (0, 0));
    stage.end().await;
}

#[tokio::test]
async fn w04_an_outbox_that_would_lose_its_rows_does_not_start() {
    async fn place(_: Place, cx: Context) -> Result<()> {
        cx.publish(Placed { id: 1 })
    }
    let stage = Stage::new().await;
    let unit = barid::SqlUnitOfWork::new(stage.pool().clone());
    let bus = stage.bus().unit_of_work(unit).outbox(SqlOutbox::new()).handler(place);
    let said = bus.build().unwrap_err().to_string();
    for part in [
        "BRD012",
        "an outbox",
        "commit_with_transaction is false (default)",
        "commit_with_transaction = true",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w05_nothing_is_sent_for_a_transaction_that_does_not_commit() {
    async fn place(cmd: Place, cx: Context) -> Result<()> {
        cx.publish(Placed { id: cmd.id })?;
        match cmd.id {
            1 => effect_that_cannot_commit(&cx, cmd.id).await,
            _ => effect(&cx, cmd.id).await,
        }
    }
    let stage = Stage::new().await;
    stage.declare("shipping", &["orders"]).await;
    let bus = stage.bus().handler(place).build().unwrap();
    bus.declare().await.unwrap();
    stage.place(1).await;
    stage.place(2).await;
    let bus = run(bus);
    stage.becomes(DEAD, 1).await;
    stage.becomes("SELECT count(*) FROM queue_message WHERE queue = 'shipping'", 1).await;
    bus.stop().await;
    let ghost = "SELECT count(*) FROM queue_message WHERE queue = 'shipping' AND convert_from(body, 'UTF8') LIKE '%1%'";
    assert_eq!(stage.number(ghost).await, 0);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w06_a_bus_that_skips_duplicates_never_loses_what_a_handler_sends() {
    async fn place(cmd: Place, cx: Context) -> Result<()> {
        effect(&cx, cmd.id).await?;
        cx.publish(Placed { id: cmd.id })
    }
    let stage = Stage::new().await;
    let bus = || stage.bus().handler(place).idempotency(SqlIdempotency::new());
    // Without an outbox the message and its effect fail together, at once, and it is said why.
    let refusing = bus().build().unwrap();
    refusing.declare().await.unwrap();
    stage.place(1).await;
    let running = run(refusing);
    stage.becomes(DEAD, 1).await;
    running.stop().await;
    assert_eq!(stage.number(EFFECTS).await, 0);
    // With one, effect and message commit together.
    stage.place(2).await;
    let running = run(bus().outbox(SqlOutbox::new()).build().unwrap());
    stage.becomes(EFFECTS, 1).await;
    running.stop().await;
    assert_eq!(stage.number(OUTBOX).await, 1);
    stage.end().await;
}

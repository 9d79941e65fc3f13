//! What happens at the end of the attempts: handlers of failed messages, errors that fail fast, the way back.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use barid::{
    Bus, Context, Destination, Error, Failed, Message, Outgoing, Result, SqlIdempotency, SqlOutbox, State,
    UnitGuard, headers, transport::memory::Memory,
};
use serde::{Deserialize, Serialize};
use sqlx::Postgres;

use super::stage::{Make, Running, Stage, make};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "trouble.made")]
struct Made;

type Calls = Arc<AtomicU32>;
type Seen = Arc<Mutex<Vec<Failed<Make>>>>;

const EFFECTS: &str = "SELECT count(*) FROM effects";
const OUTBOX: &str = "SELECT count(*) FROM outbox";
const ATTEMPTS: &str = "SELECT count(*) FROM attempts";

async fn fails(_: Make, cx: Context, mut db: UnitGuard<Postgres>, calls: State<Calls>) -> Result<()> {
    sqlx::query("INSERT INTO effects VALUES ('first level')").execute(&mut *db).await?;
    cx.publish(Made)?;
    let call = calls.0.fetch_add(1, Ordering::SeqCst) + 1;
    Err(Error::new(format!("refused {call}")))
}

/// Succeeds unless the message asks for more trouble.
async fn failed(
    failed: Failed<Make>,
    cx: Context,
    seen: State<Seen>,
    mut db: UnitGuard<Postgres>,
) -> Result<()> {
    sqlx::query("INSERT INTO effects VALUES ('second level')").execute(&mut *db).await?;
    cx.publish(Made)?;
    assert_eq!(cx.attempt(), failed.attempts);
    let trouble = failed.message.how == "twice";
    seen.0.lock().unwrap().push(failed);
    if trouble { Err(Error::new("refused for good")) } else { Ok(()) }
}

fn with_second_level(stage: &Stage<barid::SqlQueue>) -> (Bus, Calls, Seen) {
    let (calls, seen) = (Calls::default(), Seen::default());
    let bus = stage
        .bus()
        .outbox(SqlOutbox::new())
        .idempotency(SqlIdempotency::new())
        .state(Arc::clone(&calls))
        .state(Arc::clone(&seen))
        .handler(fails)
        .handler(failed);
    (bus.build().unwrap(), calls, seen)
}

#[tokio::test]
async fn a_handler_of_failed_messages_ends_the_trouble_in_a_unit_of_work_of_its_own() {
    let stage = Stage::sql().await;
    let (bus, calls, seen) = with_second_level(&stage);
    let id = stage.send(make("once")).await;
    let running = Running::start(bus);
    stage.becomes(EFFECTS, 1).await;
    stage.becomes("SELECT count(*) FROM queue_message", 0).await;
    stage.becomes(ATTEMPTS, 0).await;
    running.stop().await;
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let [failed] = seen.as_slice() else { panic!("called {} times", seen.len()) };
    assert_eq!(failed.errors, ["refused 1", "refused 2", "refused 3"]);
    assert_eq!((failed.attempts, calls.load(Ordering::SeqCst)), (3, 3));
    assert_eq!(failed.headers.get(headers::ID), Some(id.to_string().as_str()));
    assert_eq!(stage.number("SELECT count(*) FROM effects WHERE what = 'second level'").await, 1);
    assert_eq!((stage.number(OUTBOX).await, stage.number("SELECT count(*) FROM idempotency").await), (1, 1));
    stage.database.drop_now().await;
}

#[tokio::test]
async fn a_handler_of_failed_messages_that_fails_too_leaves_a_dead_letter_with_both_causes() {
    let stage = Stage::sql().await;
    let (bus, _, seen) = with_second_level(&stage);
    let id = stage.send(make("twice")).await;
    let running = Running::start(bus);
    let (letter, all, _) = stage.letter().await;
    running.stop().await;
    assert!(
        letter.cause.contains("refused 3") && letter.cause.contains("refused for good"),
        "{}",
        letter.cause
    );
    assert_eq!((letter.attempts, seen.lock().unwrap().len()), (3, 1));
    assert!(letter.handler.unwrap().ends_with("handling::failed"));
    assert_eq!(all.get(headers::ID), Some(id.to_string().as_str()));
    let undone = [EFFECTS, OUTBOX, ATTEMPTS, "SELECT count(*) FROM idempotency"];
    for table in undone {
        assert_eq!(stage.number(table).await, 0, "{table}");
    }
    stage.database.drop_now().await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_no_failed_message() {
    let stage = Stage::sql().await;
    let (bus, calls, seen) = with_second_level(&stage);
    let to = Destination::queue(stage.queue.clone()).unwrap();
    let body = Some(bytes::Bytes::from_static(b"{\"how\":7}"));
    stage.sender().send(Outgoing::raw(Make::NAME, body).to(to)).await.unwrap();
    let running = Running::start(bus);
    let (letter, ..) = stage.letter().await;
    running.stop().await;
    assert!(letter.cause.contains("cannot be read by handler"), "{}", letter.cause);
    assert!(letter.handler.unwrap().ends_with("handling::fails"));
    assert_eq!((calls.load(Ordering::SeqCst), seen.lock().unwrap().len()), (0, 0));
    stage.database.drop_now().await;
}

#[derive(Debug, thiserror::Error)]
#[error("the card was declined")]
struct Declined;

#[derive(Debug, thiserror::Error)]
#[error("paying failed")]
struct Paying(#[source] Declined);

#[tokio::test]
async fn an_error_that_fails_fast_has_one_attempt_and_its_second_level() {
    async fn declines(_: Make, calls: State<Calls>) -> Result<()> {
        calls.0.fetch_add(1, Ordering::SeqCst);
        Err(Error::from(Paying(Declined)).context("order 7"))
    }
    for second_level in [false, true] {
        let stage = Stage::sql().await;
        let (calls, seen) = (Calls::default(), Seen::default());
        let mut bus = stage
            .bus()
            .fail_fast::<Declined>()
            .state(Arc::clone(&calls))
            .state(Arc::clone(&seen))
            .handler(declines);
        if second_level {
            bus = bus.handler(failed);
        }
        stage.send(make(if second_level { "twice" } else { "once" })).await;
        let running = Running::start(bus.build().unwrap());
        let (letter, ..) = stage.letter().await;
        running.stop().await;
        assert!(
            letter.cause.starts_with("order 7: paying failed: the card was declined"),
            "{}",
            letter.cause
        );
        assert_eq!((letter.attempts, calls.load(Ordering::SeqCst)), (1, 1));
        let called: Vec<_> = seen.lock().unwrap().iter().map(|failed| failed.errors.clone()).collect();
        let expected =
            vec![vec!["order 7: paying failed: the card was declined".to_owned()]; usize::from(second_level)];
        assert_eq!(called, expected);
        stage.database.drop_now().await;
    }
}

#[tokio::test]
async fn a_commit_that_fails_and_a_send_after_the_commit_that_fails_are_attempts() {
    async fn cannot_commit(_: Make, mut db: UnitGuard<Postgres>, calls: State<Calls>) -> Result<()> {
        calls.0.fetch_add(1, Ordering::SeqCst);
        sqlx::query("INSERT INTO never (id, up) VALUES (1, 2)").execute(&mut *db).await?;
        Ok(())
    }
    async fn cannot_send(_: Make, cx: Context, calls: State<Calls>) -> Result<()> {
        calls.0.fetch_add(1, Ordering::SeqCst);
        cx.publish(Outgoing::new(Made).to(Destination::queue("nobody")?))
    }
    for commit in [true, false] {
        let stage = Stage::sql().await;
        let never =
            "CREATE TABLE never (id int UNIQUE, up int REFERENCES never (id) DEFERRABLE INITIALLY DEFERRED)";
        sqlx::query(never).execute(stage.pool()).await.unwrap();
        let calls = Calls::default();
        let bus = stage.bus().state(Arc::clone(&calls));
        let bus = if commit { bus.handler(cannot_commit) } else { bus.handler(cannot_send) };
        stage.send(make("trouble")).await;
        let running = Running::start(bus.build().unwrap());
        let (letter, ..) = stage.letter().await;
        running.stop().await;
        assert_eq!((letter.attempts, calls.load(Ordering::SeqCst)), (3, 3), "{}", letter.cause);
        let said = if commit { "never" } else { "nobody receives from queue" };
        assert!(letter.cause.contains(said), "{}", letter.cause);
        stage.database.drop_now().await;
    }
}

#[tokio::test]
async fn a_dead_letter_goes_back_to_its_source_with_its_id_and_fresh_attempts() {
    async fn mended(cmd: Make, mended: State<Arc<AtomicBool>>, mut db: UnitGuard<Postgres>) -> Result<()> {
        sqlx::query("INSERT INTO effects VALUES ($1)").bind(cmd.how).execute(&mut *db).await?;
        if mended.0.load(Ordering::SeqCst) { Ok(()) } else { Err(Error::new("not yet mended")) }
    }
    let stage = Stage::sql().await;
    let switch = Arc::new(AtomicBool::new(false));
    let bus = stage.bus().idempotency(SqlIdempotency::new()).state(Arc::clone(&switch)).handler(mended);
    let id = stage.send(make("later")).await;
    let running = Running::start(bus.build().unwrap());
    // The attempts begin again: given up a second time, after three more.
    for _ in 0..2 {
        let (letter, all, body) = stage.letter().await;
        assert_eq!((letter.attempts, letter.queue.as_str()), (3, stage.queue.as_str()));
        assert_eq!(all.get(headers::ID), Some(id.to_string().as_str()));
        stage.sender().return_to_source(&all, body).await.unwrap();
    }
    let (_, all, body) = stage.letter().await;
    switch.store(true, Ordering::SeqCst);
    stage.sender().return_to_source(&all, body).await.unwrap();
    stage.becomes(EFFECTS, 1).await;
    stage.becomes("SELECT count(*) FROM queue_message", 0).await;
    let record = format!("SELECT count(*) FROM idempotency WHERE message_id = '{id}'");
    assert_eq!((stage.number(&record).await, stage.number(ATTEMPTS).await), (1, 0));
    running.stop().await;
    stage.database.drop_now().await;
}

#[test]
fn what_a_handler_of_failed_messages_lacks_is_found_when_the_bus_is_built() {
    async fn asks(_: Failed<Make>, _: State<Seen>) -> Result<()> {
        Ok(())
    }
    let said = Bus::builder("orders").transport(Memory::new()).handler(asks).build().unwrap_err().to_string();
    assert!(said.contains("BRD014") && said.contains("asks") && said.contains(".state("), "{said}");
    assert!(said.contains("nobody handles the message"), "{said}");
}

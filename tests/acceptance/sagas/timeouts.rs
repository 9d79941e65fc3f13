//! Timeouts: they come, they can be cancelled, and they end with their saga, wherever their message is by then.

use std::time::Duration;

use barid::{Memory, SqlOutbox, schedule::MemorySchedule, schedule::SqlSchedule};
use barid_tests::eventually;
use tokio::sync::oneshot;

use crate::*;

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(1);

#[derive(Serialize, Deserialize, Message)]
#[message(name = "payments.overdue")]
struct Overdue;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "payments.remind")]
struct Remind;

#[derive(Default, Serialize, Deserialize)]
struct Payment {
    overdue: u32,
}

async fn awaits(order: OrderPlaced, mut payment: Saga<Payment>) -> Result<()> {
    // Odd orders are due soon.
    payment.timeout(if order.order % 2 == 1 { SOON } else { HOUR }, Overdue)?;
    payment.timeout(HOUR, Remind).map(drop)
}

async fn overdue(_: Overdue, mut payment: Saga<Payment>) -> Result<()> {
    payment.overdue += 1;
    Ok(())
}

async fn remind(_: Remind, _: Saga<Payment>) -> Result<()> {
    panic!("an hour has passed");
}

async fn paid(paid: Paid, mut payment: Saga<Payment>) -> Result<()> {
    payment.cancel_timeouts::<Overdue>();
    if paid.order > 100 {
        payment.complete();
    }
    Ok(())
}

fn payments() -> barid::saga::Definition<Payment> {
    // An order and the one that is 100 higher are one: paying the latter completes it.
    Saga::<Payment>::define("payments")
        .starts_with(by("order", |placed: &OrderPlaced| placed.order), awaits)
        .then(by("order", |paid: &Paid| paid.order % 100), paid)
        .on_timeout(overdue)
        .on_timeout(remind)
}

#[tokio::test]
async fn timeouts_come_once_and_not_after_they_were_cancelled() {
    for world in worlds().await {
        let bus = world.bus("desk").outbox(SqlOutbox::new()).schedule(SqlSchedule::new());
        let bus = bus.saga(payments()).build().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let mover = bus.clone();
        let running = tokio::spawn(async move { mover.run_until(async { drop(stopped.await) }).await });
        let waiting = async || world.count("SELECT count(*) FROM schedule").await;
        let due = |rows| {
            let world = &world;
            eventually(Duration::from_secs(20), "a timeout is due", move || async move {
                world.count("SELECT count(*) FROM outbox").await == rows
            })
        };
        let state = async || world.data_of("payments").await.unwrap();

        // It comes, and a repeat of it changes nothing although this bus recognises no duplicates.
        bus.handle(delivery(&OrderPlaced { order: 1 })).await.unwrap();
        due(1).await;
        world.carry(&bus, true).await;
        world.carry(&bus, false).await;
        assert_eq!((state().await, waiting().await), (r#"{"overdue":1}"#.to_owned(), 1), "{world}");
        // Completion cancels what is left.
        bus.handle(delivery(&Paid { order: 101 })).await.unwrap();
        assert_eq!((world.sagas().await, waiting().await), ((1, 1), 0), "{world}");

        // Cancelled before it is due.
        bus.handle(delivery(&OrderPlaced { order: 2 })).await.unwrap();
        assert_eq!(waiting().await, 2, "{world}");
        bus.handle(delivery(&Paid { order: 2 })).await.unwrap();
        assert_eq!(waiting().await, 1, "{world}: only the one that was meant");
        bus.handle(delivery(&Paid { order: 102 })).await.unwrap();

        // Cancelled, and completed, when the message has left already.
        for (order, paid) in [(3, 3), (5, 105)] {
            bus.handle(delivery(&OrderPlaced { order })).await.unwrap();
            due(1).await;
            bus.handle(delivery(&Paid { order: paid })).await.unwrap();
            let before = world.count("SELECT sum(revision) FROM saga").await;
            world.carry(&bus, false).await;
            assert_eq!(world.count("SELECT sum(revision) FROM saga").await, before, "{world}: {order} came");
        }
        assert_eq!(world.sagas().await, (4, 3), "{world}");
        drop(stop);
        running.await.unwrap().unwrap();
        world.close().await;
    }
}

#[tokio::test]
async fn a_handler_that_fails_sets_and_cancels_no_timeout() {
    for world in worlds().await {
        let fails = async |_: Paid, mut payment: Saga<Payment>| {
            payment.cancel_timeouts::<Overdue>();
            payment.timeout(HOUR, Remind)?;
            Err(barid::Error::new("no"))
        };
        let saga = Saga::<Payment>::define("payments")
            .starts_with(by("order", |placed: &OrderPlaced| placed.order), awaits)
            .then(by("order", |paid: &Paid| paid.order), fails);
        let bus = world.bus("desk").outbox(SqlOutbox::new()).schedule(SqlSchedule::new());
        let bus = bus.saga(saga).build().unwrap();
        bus.handle(delivery(&OrderPlaced { order: 2 })).await.unwrap();
        bus.handle(delivery(&Paid { order: 2 })).await.unwrap_err();
        assert_eq!(world.count("SELECT count(*) FROM schedule").await, 2, "{world}");
        world.close().await;
    }
}

async fn told_by(_: Overdue, mut payment: Saga<Payment>, done: State<Told>) -> Result<()> {
    payment.complete();
    Ok(done.0.send(()).await?)
}

type Told = tokio::sync::mpsc::Sender<()>;

#[tokio::test]
async fn timeouts_in_memory() {
    let (done, mut told) = tokio::sync::mpsc::channel::<()>(1);
    let saga = Saga::<Payment>::define("payments")
        .starts_with(by("order", |placed: &OrderPlaced| placed.order), awaits)
        .on_timeout(told_by);
    let bus = Bus::builder("desk")
        .transport(Memory::new())
        .memory_sagas(MemorySagas::new())
        .schedule(MemorySchedule::new())
        .state(done)
        .saga(saga)
        .build()
        .unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    bus.declare().await.unwrap();
    let running = tokio::spawn({
        let bus = bus.clone();
        async move { bus.run_until(async { drop(stopped.await) }).await }
    });
    bus.handle(delivery(&OrderPlaced { order: 1 })).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), told.recv()).await.unwrap().unwrap();
    drop(stop);
    running.await.unwrap().unwrap();
}

#[test]
fn a_saga_with_timeouts_needs_a_schedule() {
    let bus = Bus::builder("desk").transport(Memory::new()).memory_sagas(MemorySagas::new());
    let said = bus.saga(payments()).build().unwrap_err().to_string();
    assert!(
        said.contains("BRD040: saga \"payments\" has timeouts") && said.contains("SqlSchedule"),
        "{said}"
    );
}

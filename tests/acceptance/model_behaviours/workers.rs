//! The loop of a running bus: failures, parallelism, stopping, pauses and signs of life.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use barid::{
    Backoff, BusBuilder, Context, Destination, Error, HandWritten, Memory, Outgoing, Result, RetryPolicy,
    Sender, SqlQueue, Stage, State, Transport, health::Stuck, transport::Inbox,
};
use barid_tests::{eventually, lines::Lines};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    faulty::Faulty,
    stage::{BUS, DEAD, Draft, Journal, PATIENCE, Place, Running, bus, database},
};

const MS: Duration = Duration::from_millis(1);

/// A transport in memory with faults, and a bus on it that gives a message up when it fails.
async fn faulty(network: &Memory) -> (Faulty, BusBuilder) {
    let transport = Faulty::new(network.clone());
    let policy = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
    let builder = bus(network).await.transport(transport.clone()).retry(policy);
    (transport, builder.parallelism(1).error_backoff([20 * MS, 50 * MS]))
}

async fn send(network: &impl Transport, ids: &[i64]) {
    network.declare(&Inbox::new(BUS)).await.unwrap();
    let sender = Sender::connect(network, "test").await.unwrap();
    for id in ids {
        let to = Destination::queue(BUS).unwrap();
        sender.send(Outgoing::new(Place { id: *id }).to(to)).await.unwrap();
    }
}

async fn note(cmd: Place, journal: State<Journal>) -> Result<()> {
    journal.0.write(cmd.id.to_string());
    Ok(())
}

#[tokio::test]
async fn failures_are_logged_and_reported_and_the_next_message_is_handled() {
    async fn place(cmd: Place, cx: Context, journal: State<Journal>) -> Result<()> {
        let fails = |stage| Some(stage).filter(|_| cmd.id == 2);
        journal.0.watch(&cx, fails(Stage::Commit))?;
        assert!(cmd.id != 3, "a panic of the handler");
        if cmd.id == 1 { Err(Error::new("an error of the handler")) } else { Ok(()) }
    }
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(lines.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let (network, journal) = (Memory::new(), Journal::default());
    let (transport, builder) = faulty(&network).await;
    let running = Running::start(builder.handler(place).state(journal.clone())).await;
    for (id, text) in [
        (1, "an error of the handler"),
        (2, "commit fails"),
        (3, "a panic of the handler"),
        (4, "asked for it"),
    ] {
        if id == 4 {
            transport.faults.fail(1);
        }
        send(&network, &[id]).await;
        let said = |text: String| lines.text().contains(&text);
        eventually(PATIENCE, text, || async { said(text.to_owned()) }).await;
        let error = || running.bus.health().last_error.map(|error| error.text).unwrap_or_default();
        eventually(PATIENCE, text, || async { error().contains(text) }).await;
        // Whatever happened, the context was closed and the next one is handled.
        let handled = journal.read().iter().filter(|entry| *entry == "commit").count();
        send(&network, &[100 + id]).await;
        let more = || async { journal.read().iter().filter(|entry| *entry == "commit").count() > handled };
        eventually(PATIENCE, "the next message", more).await;
    }
    running.stop().await;
    let closed = journal.read().iter().filter(|entry| *entry == "close").count();
    assert_eq!((closed, network.len(BUS), network.len(DEAD)), (8, 0, 3));
}

#[tokio::test]
async fn with_five_places_a_fast_message_is_done_before_a_slow_one() {
    async fn place(cmd: Place, journal: State<Journal>, fast_is_done: State<Semaphore>) -> Result<()> {
        if cmd.id == 0 {
            fast_is_done.0.acquire().await?.forget();
        }
        journal.0.write(cmd.id.to_string());
        fast_is_done.0.add_permits(1);
        Ok(())
    }
    let (network, journal) = (Memory::new(), Journal::default());
    let builder = bus(&network).await.parallelism(5).handler(place).state(Semaphore::new(0));
    let running = Running::start(builder.state(journal.clone())).await;
    assert_eq!(running.bus.settings().parallelism, 5);
    send(&network, &[0, 1]).await;
    assert_eq!(journal.until(2).await, ["1", "0"]);
    running.stop().await;
}

#[tokio::test]
async fn with_one_place_messages_are_handled_in_order_and_the_queue_is_emptied() {
    async fn place(cmd: Place, journal: State<Journal>) -> Result<()> {
        journal.0.write(format!("begin {}", cmd.id));
        tokio::task::yield_now().await;
        journal.0.write(format!("end {}", cmd.id));
        Ok(())
    }
    let (network, journal) = (Memory::new(), Journal::default());
    send(&network, &(0..20).collect::<Vec<_>>()).await;
    let builder = bus(&network).await.parallelism(1).handler(place).state(journal.clone());
    let running = Running::start(builder).await;
    let expected: Vec<_> = (0..20).flat_map(|id| [format!("begin {id}"), format!("end {id}")]).collect();
    assert_eq!(journal.until(40).await, expected);
    running.stop().await;
    assert!(network.is_empty(BUS));
}

/// A place that its message does not give back would stop a bus with one place.
#[tokio::test]
async fn a_message_that_cannot_even_begin_gives_its_place_back() {
    let (network, journal) = (Memory::new(), Journal::default());
    let (failing, units) = (Arc::new(Semaphore::new(3)), Journal::default());
    let unit = HandWritten::new(move |_| {
        let fails = failing.try_acquire().map(SemaphorePermit::forget).is_ok();
        let draft = Draft { journal: units.clone() };
        async move { if fails { Err(Error::new("no connection")) } else { Ok(draft) } }
    });
    let (_, builder) = faulty(&network).await;
    let running = Running::start(builder.unit_of_work(unit).handler(note).state(journal.clone())).await;
    send(&network, &[1, 2, 3, 4]).await;
    assert_eq!(journal.until(1).await, ["4"]);
    eventually(PATIENCE, "no place is taken", || async { running.bus.health().in_flight == 0 }).await;
    assert_eq!((running.bus.health().failed, network.len(DEAD)), (3, 3));
    running.stop().await;
}

#[tokio::test]
async fn the_grace_period_bounds_a_handler_that_hangs() {
    async fn place(_: Place, cx: Context, journal: State<Journal>) -> Result<()> {
        journal.0.write("begins");
        journal.0.watch(&cx, None)?;
        std::future::pending().await
    }
    let (network, journal) = (Memory::new(), Journal::default());
    let grace = 200 * MS;
    let builder = bus(&network).await.stop_grace(grace).handler(place).state(journal.clone());
    let running = Running::start(builder).await;
    assert_eq!(running.bus.settings().stop_grace, grace);
    send(&network, &[1]).await;
    journal.until(1).await;
    let told = Instant::now();
    running.stop().await;
    assert!(told.elapsed() >= grace, "it was dropped after {:?}", told.elapsed());
    assert_eq!(network.len(BUS), 1, "its message comes again");
    assert!(!journal.read().contains(&"commit".to_owned()));
}

#[tokio::test]
async fn failing_receives_pause_as_they_were_told() {
    let (network, journal) = (Memory::new(), Journal::default());
    let (transport, builder) = faulty(&network).await;
    transport.faults.fail(4);
    send(&network, &[1]).await;
    let running = Running::start(builder.handler(note).state(journal.clone())).await;
    journal.until(1).await;
    let pauses = transport.faults.pauses();
    // It grows, and the last step repeats.
    let long_enough = pauses.iter().zip([20 * MS, 50 * MS, 50 * MS]).all(|(pause, step)| *pause >= step);
    assert!(pauses.len() == 3 && long_enough, "{pauses:?}");
    assert_eq!(running.bus.health().receive_failures, 0, "a delivery begins anew");
    transport.faults.fail(1);
    let quiet =
        || async { transport.faults.pauses().len() == 4 && running.bus.health().receive_failures == 0 };
    eventually(PATIENCE, "a look that finds nothing begins anew", quiet).await;
    running.stop().await;

    let steps = [3 * MS, 4 * MS];
    let told = bus(&network).await.handler(note).state(journal.clone()).receive_backoff(steps);
    assert_eq!(told.build().unwrap().settings().worker.receive_backoff.steps(), steps);
    assert!(Backoff::new([]).is_err());
    let said = bus(&network).await.handler(note).state(journal).error_backoff([]).receive_backoff([]);
    let said = said.build().unwrap_err().to_string();
    assert!(said.contains("error_backoff") && said.contains("receive_backoff"), "{said}");
}

#[tokio::test]
async fn the_heartbeat_is_young_when_idle_and_old_when_receiving_hangs() {
    let (database, journal) = (database().await, Journal::default());
    let transport = Faulty::new(SqlQueue::new(database.pool.clone()));
    let builder = bus(&Memory::new()).await.transport(transport.clone()).handler(note).state(journal.clone());
    assert_eq!(builder.build().unwrap().health().heartbeat_age, None, "before its first start");
    let builder = bus(&Memory::new()).await.transport(transport.clone()).handler(note).state(journal.clone());
    let running = Running::start(builder).await;
    let patience = Duration::from_secs(2);
    let (mut beats, mut last) = (0, Duration::ZERO);
    eventually(PATIENCE, "signs of life while idle", || {
        let age = running.bus.health().heartbeat_age.unwrap_or_default();
        beats += usize::from(age < last);
        last = age;
        let enough = beats >= 2;
        async move { enough }
    })
    .await;
    let stuck = || running.bus.health().stuck(patience);
    transport.faults.hang(true);
    eventually(PATIENCE, "it hangs", || async { matches!(stuck(), Some(Stuck::Worker(_))) }).await;
    transport.faults.hang(false);
    eventually(PATIENCE, "it is well again", || async { stuck().is_none() }).await;
    send(&transport, &[1]).await;
    assert_eq!(journal.until(1).await, ["1"]);
    running.stop().await;
    database.drop_now().await;
}

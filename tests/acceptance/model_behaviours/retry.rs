//! What becomes of a message that fails.

use barid::{Context, Error, Memory, Result, State, headers};
use uuid::Uuid;

use crate::stage::{BUS, DEAD, Journal, Place, bus, delivery};

async fn place(cmd: Place, cx: Context, journal: State<Journal>) -> Result<()> {
    journal.0.watch(&cx, None)?;
    match cmd.id {
        1 => Ok(()),
        2 => Err(Error::permanent("it can never work")),
        _ => Err(Error::new("not now")),
    }
}

#[tokio::test]
async fn success_commits_and_acknowledges() {
    let (network, journal) = (Memory::new(), Journal::default());
    let bus = bus(&network).await.handler(place).state(journal.clone()).build().unwrap();
    bus.handle(delivery(Uuid::now_v7(), 1)).await.unwrap();
    assert_eq!(
        (journal.read(), network.len(DEAD)),
        (["commit", "ack", "close"].map(String::from).to_vec(), 0)
    );
}

#[tokio::test]
async fn a_hopeless_message_is_a_dead_letter_after_one_attempt() {
    let (network, journal) = (Memory::new(), Journal::default());
    let bus = bus(&network).await.handler(place).state(journal.clone()).build().unwrap();
    bus.handle(delivery(Uuid::now_v7(), 2)).await.unwrap_err();
    assert_eq!(journal.read(), ["rollback", "ack", "close"]);
    let (letter, _) = &network.peek(DEAD)[0];
    assert_eq!(letter.get(headers::DEAD_ATTEMPTS), Some("1"));
}

#[tokio::test]
async fn a_failing_message_goes_back_until_its_attempts_are_used_up() {
    let (network, journal) = (Memory::new(), Journal::default());
    let bus = bus(&network).await.handler(place).state(journal.clone()).build().unwrap();
    let (message, again) = (Uuid::now_v7(), ["rollback", "nack", "close"]);
    for attempt in 1..=2 {
        bus.handle(delivery(message, 3)).await.unwrap_err();
        assert_eq!(journal.read(), again.repeat(attempt));
        assert_eq!(network.len(DEAD), 0);
    }
    // Another message has attempts of its own.
    bus.handle(delivery(Uuid::now_v7(), 3)).await.unwrap_err();
    assert_eq!(network.len(DEAD), 0);
    bus.handle(delivery(message, 3)).await.unwrap_err();
    assert_eq!(journal.read()[9..], ["rollback", "ack", "close"]);

    let (letter, body) = &network.peek(DEAD)[0];
    let original = delivery(message, 3);
    assert_eq!(body, &original.body, "a copy of the message");
    for (name, value) in original.headers.iter() {
        assert_eq!(letter.get(name), Some(value));
    }
    assert_eq!(letter.get(headers::DEAD_ATTEMPTS), Some("3"));
    assert_eq!(letter.get(headers::DEAD_SOURCE), Some(BUS));
    assert!(letter.get(headers::DEAD_CAUSE).unwrap().contains("not now"));
}

#[tokio::test]
async fn a_message_that_was_handled_after_a_failure_begins_to_count_anew() {
    async fn now_and_then(_: Place, journal: State<Journal>) -> Result<()> {
        journal.0.write("attempt");
        if journal.0.read().len().is_multiple_of(3) { Ok(()) } else { Err(Error::new("not now")) }
    }
    let (network, journal) = (Memory::new(), Journal::default());
    let bus = bus(&network).await.handler(now_and_then).state(journal.clone()).build().unwrap();
    let message = Uuid::now_v7();
    let again =
        || barid::transport::Delivery { repeat: barid::transport::Repeat::Possible, ..delivery(message, 1) };
    for _ in 0..3 {
        bus.handle(again()).await.unwrap_err();
        bus.handle(again()).await.unwrap_err();
        bus.handle(again()).await.unwrap();
    }
    assert_eq!((journal.read().len(), network.len(DEAD)), (9, 0));
}

#[tokio::test]
async fn an_error_of_a_hopeless_type_is_given_up_at_once_and_another_one_is_not() {
    async fn parses(cmd: Place, journal: State<Journal>) -> Result<()> {
        journal.0.write("attempt");
        match cmd.id {
            1 => Err("x".parse::<i64>().unwrap_err().into()),
            _ => Err("x".parse::<f64>().unwrap_err().into()),
        }
    }
    for (id, attempts) in [(1, 1), (2, 3)] {
        let (network, journal) = (Memory::new(), Journal::default());
        let bus = bus(&network).await.fail_fast::<std::num::ParseIntError>().handler(parses);
        let bus = bus.state(journal.clone()).build().unwrap();
        let message = Uuid::now_v7();
        while network.len(DEAD) == 0 && journal.read().len() < 10 {
            bus.handle(delivery(message, id)).await.unwrap_err();
        }
        assert_eq!((journal.read().len(), network.len(DEAD)), (attempts, 1));
    }
}

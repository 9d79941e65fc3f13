//! Faults of Kafka: rows F62 to F70 of the fault table. What a broker does only rarely comes from librdkafka's own cluster,
//! the rest from the Kafka under test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "kafka/log.rs"]
mod log;

use std::{collections::HashSet, time::Duration};

use barid::{
    Destination, Headers, Transport as _,
    transport::{
        Inbox, Outcome, OutgoingRow, Publisher, Token,
        kafka::{Kafka, Settings},
    },
};
use barid_tests::{
    Process, eventually,
    ledger::Fault,
    names,
    outbox::{Database, Outbox},
    rig::{HELD_MAX, PATIENCE, Rig, WINDOW},
    servers,
    tape::Tape,
};
use log::settle;
use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr as Reply},
};

const BROKERS: i32 = 3;
/// How long a row waits for its confirm here. Short, so that a test need not be long.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// An outbox whose relay publishes to this cluster.
async fn rig(brokers: &str, topic: &str) -> Rig {
    let mut tape = Tape::kafka(topic).through(brokers);
    tape.sink.push_str(&format!("\nconfirm_timeout_ms = {}", CONFIRM_TIMEOUT.as_millis()));
    // A broker refuses a batch whose predecessor is missing. librdkafka's cluster appends it and would break the order itself.
    tape.sink.push_str("\nproperties.\"max.in.flight.requests.per.connection\" = \"1\"");
    Rig::new(Outbox::new(Database::Postgres).await, tape)
}

fn cluster() -> (MockCluster<'static, DefaultProducerContext>, String, String) {
    let mock = MockCluster::new(BROKERS).unwrap();
    let (brokers, topic) = (mock.bootstrap_servers(), names::unique("faulty"));
    mock.create_topic(&topic, 3, BROKERS).unwrap();
    (mock, brokers, topic)
}

/// Waits until everything that is in the outbox now has left it.
async fn caught_up(rig: &Rig) {
    let waiting: HashSet<_> = rig.outbox.waiting().await.into_iter().collect();
    eventually(PATIENCE, "what was committed has left the outbox", || async {
        !rig.outbox.waiting().await.iter().any(|id| waiting.contains(id))
    })
    .await;
}

/// F62, F63, F67, F68, F70: errors that pass. Nobody has to do anything.
#[tokio::test(flavor = "multi_thread")]
async fn f62_f63_f67_f68_f70_what_passes_is_waited_out() {
    let (mock, brokers, topic) = cluster();
    let rig = rig(&brokers, &topic).await;
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    let mut faults = Vec::new();
    for _ in 0..if servers::long() { 5 } else { 1 } {
        for (what, error) in [
            ("F62: too few replicas", Reply::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS),
            (
                "F63: too few replicas, after the append",
                Reply::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
            ),
            ("F67: a sequence number out of order", Reply::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER),
        ] {
            load.more(50).await;
            mock.request_errors(RDKafkaApiKey::Produce, &[error, error]);
            load.more(50).await;
            caught_up(&rig).await;
            // The next two requests to produce get the error; that rows passed shows that there were more than two.
            let passed = rig.outbox.committed().await.len() - rig.outbox.left().await;
            faults.push(Fault::new(
                what,
                format!("two answers {error:?}, and then rows passed ({passed} so far)"),
            ));
        }
        for partition in 0..3 {
            let leader = 1 + (partition + 1) % BROKERS;
            mock.partition_leader(&topic, partition, Some(leader)).unwrap();
            load.more(30).await;
            caught_up(&rig).await;
            faults.push(Fault::new(
                "F70: another leader",
                format!("broker {leader} leads partition {partition}"),
            ));
        }
        let all = |act: &dyn Fn(i32)| (1..=BROKERS).for_each(act);
        let before = relay.log().len();
        all(&|broker| mock.broker_down(broker).unwrap());
        faults.push(Fault::new("F68: all brokers were down", not_confirmed(&relay, before).await));
        all(&|broker| mock.broker_up(broker).unwrap());
        caught_up(&rig).await;
        let before = relay.log().len();
        all(&|broker| mock.broker_round_trip_time(broker, 2 * CONFIRM_TIMEOUT).unwrap());
        let evidence = not_confirmed(&relay, before).await;
        faults.push(Fault::new("F68: answers took longer than a row may wait", evidence));
        all(&|broker| mock.broker_round_trip_time(broker, Duration::ZERO).unwrap());
        caught_up(&rig).await;
    }
    load.more(50).await;
    // Rows that stay in doubt while an outage lasts are tried again each time.
    let ledger = settle(rig, &brokers, load, relay, 4 * WINDOW, faults).await;
    ledger.assert_promises();
}

/// The first line after so many that says that rows were not confirmed.
async fn not_confirmed(relay: &Process, before: usize) -> String {
    let line = || relay.log().into_iter().skip(before).find(|line| line.contains("will be sent again"));
    eventually(PATIENCE, "rows are not confirmed", || async { line().is_some() }).await;
    line().unwrap()
}

/// F64, F66: rows that are refused for good are parked, with the later rows of their keys; other keys flow.
#[tokio::test(flavor = "multi_thread")]
async fn f64_f66_what_is_refused_is_parked_with_its_key() {
    let (mock, brokers, topic) = cluster();
    let rig = rig(&brokers, &topic).await;
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    let mut faults = Vec::new();
    for (what, error, says) in [
        ("F64: too large for the broker", Reply::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, "max.message.bytes"),
        ("F66: no permission to write", Reply::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "grant WRITE"),
    ] {
        load.more(30).await;
        let parked = rig.outbox.parked().await.len();
        mock.request_errors(RDKafkaApiKey::Produce, &[error]);
        eventually(PATIENCE, "rows are parked", || async { rig.outbox.parked().await.len() > parked }).await;
        let said = || async { relay.log().iter().any(|line| line.contains("parked") && line.contains(says)) };
        eventually(PATIENCE, says, said).await;
        faults.push(Fault::new(
            what,
            format!("{} rows were parked with the remedy: {says}", rig.outbox.parked().await.len()),
        ));
    }
    let delivered = rig.outbox.committed().await.len() - rig.outbox.left().await;
    assert!(delivered > 0);
    let ledger = settle(rig, &brokers, load, relay, WINDOW, faults).await;
    ledger.assert_promises();
    assert!(ledger.parked > 0, "{ledger}");
}

/// F65: the topic does not exist. The relay says so and waits, instead of parking everything.
#[tokio::test(flavor = "multi_thread")]
async fn f65_a_missing_topic_is_named_and_waited_for() {
    let (brokers, topic) = (servers::kafka(), names::unique("late"));
    let rig = rig(&brokers, &topic).await;
    let load = rig.load().start().await;
    let mut relay = rig.relay();
    let line = relay.line_with("does not exist", PATIENCE).await;
    assert!(line.contains(&topic), "{line}");
    load.more(50).await;
    assert!(rig.outbox.parked().await.is_empty(), "nothing is parked for want of a topic");
    Kafka::new(Settings::new(brokers.as_str())).unwrap().declare(&Inbox::new(&topic)).await.unwrap();
    relay.line_with("claimed the outbox", PATIENCE).await;
    let faults = vec![Fault::new("F65: the topic did not exist", line)];
    let ledger = settle(rig, &brokers, load, relay, 0, faults).await;
    ledger.assert_promises();
    assert_eq!(ledger.parked, 0, "{ledger}");
}

/// `strict`: one transaction a batch. A relay that is killed in the middle leaves nothing that is seen and not whole.
#[tokio::test(flavor = "multi_thread")]
async fn f68_strict_batches_survive_kill_9() {
    let (brokers, topic) = (servers::kafka(), names::unique("strict"));
    Kafka::new(Settings::new(brokers.as_str())).unwrap().declare(&Inbox::new(&topic)).await.unwrap();
    let rig = rig(&brokers, &topic).await;
    let file = rig.config();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("sink = \"tape\"", "sink = \"tape\"\norder = \"strict\"")).unwrap();
    let start = || Process::relay(["run".as_ref(), "--config".as_ref(), file.as_os_str()]);
    let load = rig.load().start().await;
    let mut faults = Vec::new();
    for _ in 0..if servers::long() { 20 } else { 3 } {
        let mut relay = start();
        relay.line_with("publishing in transactions", PATIENCE).await;
        load.more(100).await;
        relay.kill().await;
        faults.push(Fault::new("the relay was killed in the middle of transactions", "it ended by signal 9"));
    }
    let mut relay = start();
    relay.line_with("publishing in transactions", PATIENCE).await;
    load.more(50).await;
    let ledger = settle(rig, &brokers, load, relay, HELD_MAX, faults).await;
    ledger.assert_promises();
}

/// A relay that was stopped and comes back finds that another one goes on under its id: nothing of it arrives.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_publishes_last_shuts_the_other_out() {
    let topic = names::unique("fenced");
    let id = Some(names::unique("outbox"));
    let kafka = Kafka::new(Settings { transactional_id: id, ..Settings::new(servers::kafka()) }).unwrap();
    kafka.declare(&Inbox::new(&topic)).await.unwrap();
    let mut first = kafka.publisher().await.unwrap();
    assert_eq!(publish(first.as_mut(), &topic, "first").await, Outcome::Confirmed);
    let mut second = kafka.publisher().await.unwrap();
    assert_eq!(publish(second.as_mut(), &topic, "second").await, Outcome::Confirmed);
    let shut_out = publish(first.as_mut(), &topic, "late").await;
    assert!(matches!(shut_out, Outcome::Unknown(_)), "{shut_out:?}");
    // The one that was shut out may come back, and then it is the last one. What it is given before it has taken note of the
    // incident is turned away: that was not sent, and is given to it again.
    let mut again = publish(first.as_mut(), &topic, "again").await;
    if matches!(again, Outcome::Transient(_)) {
        again = publish(first.as_mut(), &topic, "again").await;
    }
    assert_eq!(again, Outcome::Confirmed);
    let mut consumer = kafka.consumer(&Inbox::new(&topic)).await.unwrap();
    for expected in ["first", "second", "again"] {
        let delivery = tokio::time::timeout(PATIENCE, consumer.receive()).await.unwrap().unwrap();
        assert_eq!(delivery.body, expected);
        delivery.settlement.ack().await.unwrap();
    }
}

async fn publish(publisher: &mut dyn Publisher, topic: &str, body: &'static str) -> Outcome {
    let row = OutgoingRow {
        seq: 0,
        id: uuid::Uuid::now_v7(),
        destination: Destination::topic(topic).unwrap(),
        aggregatetype: "order".to_owned(),
        aggregateid: Some("one".to_owned()),
        name: "orders.placed".to_owned(),
        payload: Some(body.into()),
        headers: Headers::new(),
        tracingspancontext: None,
        wire: None,
    };
    publisher.submit(&row, Token(1)).unwrap();
    let settled = tokio::time::timeout(PATIENCE, publisher.settled()).await.unwrap();
    settled.into_iter().next().unwrap().1
}

/// F69: settings that would lose confirmed rows are refused by name.
#[tokio::test]
async fn f69_what_would_break_a_promise_is_refused() {
    for (property, value) in [("acks", "1"), ("enable.idempotence", "false"), ("max.in.flight", "10")] {
        let mut rig = rig(&servers::kafka(), &names::unique("refused")).await;
        rig.tape.sink.push_str(&format!("\nproperties.{property:?} = {value:?}"));
        let mut check = Process::relay(["check".as_ref(), "--config".as_ref(), rig.config().as_os_str()]);
        let status = check.ended(PATIENCE).await;
        let log = check.log().join("\n");
        assert!(!status.success() && log.contains(property), "{status}\n{log}");
        rig.outbox.drop_now().await;
    }
}

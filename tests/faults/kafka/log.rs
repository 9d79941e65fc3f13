//! What a Kafka topic holds for those who read committed records only, and the ledger of a relay that published to it.

use std::time::{Duration, Instant};

use barid::headers::ID;
use barid_tests::{
    Process,
    ledger::{Evidence, Fault, Ledger},
    load::Loading,
    outbox::Posted,
    rig::{PATIENCE, Rig},
    tape::Copy,
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::Headers as _,
};

/// As [`Rig::settle`], for any cluster, and with transactions.
pub(crate) async fn settle(
    rig: Rig,
    brokers: &str,
    load: Loading,
    relay: Process,
    window: usize,
    faults: Vec<Fault>,
) -> Ledger {
    let journal = load.stop().await;
    let drained = rig.drained().await;
    let (status, log) = relay.terminate(PATIENCE).await;
    assert!(status.success(), "the relay ended by {status}\n{}", log.join("\n"));
    let (brokers, topic) = (brokers.to_owned(), rig.tape.destination.name().to_owned());
    let evidence = Evidence {
        committed: rig.outbox.committed().await,
        journal,
        parked: rig.outbox.parked().await,
        left: rig.outbox.left().await,
        tape: tokio::task::spawn_blocking(move || read(&brokers, &topic)).await.unwrap(),
        window,
        faults,
        drained,
    };
    rig.outbox.drop_now().await;
    let ledger = evidence.ledger();
    println!("{ledger}");
    ledger
}

/// Every committed record. A partition is told to be at its end: records that belong to transactions have offsets, too.
fn read(brokers: &str, topic: &str) -> Vec<Copy<Posted>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "log").set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let partitions = metadata.topics()[0].partitions().len();
    let mut all = TopicPartitionList::new();
    for partition in 0..partitions {
        let partition = i32::try_from(partition).unwrap();
        all.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let (mut copies, mut ended, began) = (Vec::new(), std::collections::HashSet::new(), Instant::now());
    while ended.len() < partitions {
        assert!(began.elapsed() < PATIENCE, "{topic} has no end: {} records so far", copies.len());
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(record)) => {
                let headers = record.headers().unwrap();
                let id = headers.iter().find(|header| header.key == ID).unwrap().value.unwrap();
                let id = std::str::from_utf8(id).unwrap().parse().unwrap();
                copies.push(Copy {
                    id,
                    event: serde_json::from_slice(record.payload().unwrap()).unwrap(),
                    marks: 0,
                });
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
            // A broker that has just come back; the bound above ends this.
            Some(Err(_)) | None => {}
        }
    }
    copies
}

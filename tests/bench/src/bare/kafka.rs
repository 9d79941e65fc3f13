//! By hand with rdkafka: one idempotent producer, acks from all, the delivery future of each message.

use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Context as _;
use futures::FutureExt;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{DeliveryFuture, FutureProducer, FutureRecord},
};

use super::{Publish, Row};

/// One producer, with what the relay's sink says to librdkafka.
pub(crate) struct Client(FutureProducer);

impl Client {
    pub(crate) fn new(brokers: &str) -> anyhow::Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("max.in.flight.requests.per.connection", "5")
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("compression.type", "lz4")
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", "1048576")
            .create()?;
        Ok(Self(producer))
    }
}

impl Publish for Client {
    type Confirm = Confirm;

    fn publish(&mut self, row: &Row) -> anyhow::Result<Confirm> {
        let all = row.headers()?;
        let mut headers = OwnedHeaders::new_with_capacity(all.len());
        for (name, value) in &all {
            headers = headers.insert(Header { key: name, value: Some(value) });
        }
        let mut record = FutureRecord::<str, [u8]>::to(row.name()).headers(headers);
        record.key = row.aggregateid.as_deref();
        record.payload = row.payload.as_deref();
        self.0.send_result(record).map(Confirm).map_err(|(error, _)| error.into())
    }
}

/// The delivery report of one message.
pub(crate) struct Confirm(DeliveryFuture);

impl Future for Confirm {
    type Output = anyhow::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx).map(|report| {
            report.context("the producer is gone")?.map_err(|(error, _)| error)?;
            Ok(())
        })
    }
}

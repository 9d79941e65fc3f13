//! By hand with lapin: as many channels as the relay's sink has, publisher confirms, mandatory, persistent.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use anyhow::{bail, ensure};
use barid_tests::servers;
use futures::{FutureExt, future::BoxFuture};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};

use super::{Publish, Row};

/// One connection and its channels, used in turn.
pub(crate) struct Client {
    channels: Vec<Arc<Channel>>,
    next: usize,
    /// Ends with the client.
    _connection: Connection,
}

impl Client {
    pub(crate) async fn connect(channels: u16) -> anyhow::Result<Self> {
        let connection = Connection::connect(&servers::amqp(), ConnectionProperties::default()).await?;
        let mut opened = Vec::new();
        for _ in 0..channels {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            opened.push(Arc::new(channel));
        }
        Ok(Self { channels: opened, next: 0, _connection: connection })
    }
}

/// Deletes a queue and says how many messages were in it.
pub(crate) async fn delete(queue: &str) -> anyhow::Result<u32> {
    let connection = Connection::connect(&servers::amqp(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    // A quorum queue does not say it when it is deleted.
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let held = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?.message_count();
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    connection.close(200, "done".into()).await?;
    Ok(held)
}

impl Publish for Client {
    type Confirm = BoxFuture<'static, anyhow::Result<()>>;

    fn publish(&mut self, row: &Row) -> anyhow::Result<Self::Confirm> {
        let channel = Arc::clone(&self.channels[self.next]);
        self.next = (self.next + 1) % self.channels.len();
        let mut table = FieldTable::default();
        for (name, value) in row.headers()? {
            table.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        let properties = BasicProperties::default()
            .with_message_id(row.id.to_string().into())
            .with_type(row.kind.clone().into())
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_headers(table);
        let (queue, body) = (row.name().to_owned(), row.payload.clone().unwrap_or_default());
        let mut confirm = async move {
            let options = BasicPublishOptions { mandatory: true, immediate: false };
            let sent = channel.basic_publish("".into(), queue.into(), options, &body, properties).await?;
            match sent.await? {
                Confirmation::Ack(returned) => ensure!(returned.is_none(), "the message was returned"),
                other => bail!("not confirmed: {other:?}"),
            }
            Ok(())
        }
        .boxed();
        // The first poll buffers the frames. What it finds out comes again when the confirm is awaited, but for an answer.
        match confirm.poll_unpin(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Ok(std::future::ready(answer).boxed()),
            Poll::Pending => Ok(confirm),
        }
    }
}

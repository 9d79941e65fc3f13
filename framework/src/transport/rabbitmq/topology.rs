//! Making queues, exchanges and bindings when a bus asks for it.
//!
//! Idempotent and safe from several processes at once. What exists with other arguments is never changed: RabbitMQ
//! cannot, so the error names the argument and what to do.

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use super::connection::{Broker, PRECONDITION_FAILED, amqp_error};
use crate::{
    Destination,
    transport::{Inbox, TransportError},
};

/// The inbox's queue, its topics' exchanges, and a binding for everything between them.
pub(super) async fn declare(broker: &Broker, inbox: &Inbox) -> Result<(), TransportError> {
    let connection = broker.connect("declare").await?;
    let channel = broker.bounded("channel.open", connection.create_channel()).await?;
    let queue = checked(Destination::queue(inbox.queue.as_str()))?;
    declare_queue(broker, &channel, queue.clone()).await?;
    for topic in &inbox.topics {
        let exchange = checked(Destination::topic(topic.as_str()))?;
        declare_exchange(broker, &channel, exchange.clone()).await?;
        let options = QueueBindOptions { nowait: false };
        let bound = channel.queue_bind(queue.clone(), exchange, "#".into(), options, FieldTable::default());
        broker.bounded("queue.bind", bound).await?;
    }
    // Everything is declared; a failure to hang up politely is not the caller's problem.
    let _ = broker.bounded("connection.close", connection.close(200, "declared".into())).await;
    Ok(())
}

/// Removes the binding between a queue and the exchange of a topic. RabbitMQ says yes when there is none, also when there is no
/// such queue or exchange.
pub(super) async fn unbind(broker: &Broker, queue: &str, topic: &str) -> Result<(), TransportError> {
    let queue = checked(Destination::queue(queue))?;
    let exchange = checked(Destination::topic(topic))?;
    let connection = broker.connect("unbind").await?;
    let channel = broker.bounded("channel.open", connection.create_channel()).await?;
    let unbound = channel.queue_unbind(queue, exchange, "#".into(), FieldTable::default());
    broker.bounded("queue.unbind", unbound).await?;
    // It is done; a failure to hang up politely is not the caller's problem.
    let _ = broker.bounded("connection.close", connection.close(200, "unbound".into())).await;
    Ok(())
}

async fn declare_queue(broker: &Broker, channel: &Channel, queue: ShortString) -> Result<(), TransportError> {
    let kind = if broker.settings.quorum { "quorum" } else { "classic" };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from(kind)));
    let options = QueueDeclareOptions {
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
    };
    let declared = channel.queue_declare(queue.clone(), options, arguments);
    let what = format!("queue {:?} at {}", queue.as_str(), broker.address);
    let remedy = format!(
        "delete the queue once it is empty, or set quorum = {} to use it as it is",
        !broker.settings.quorum
    );
    judged(broker, "queue.declare", async { declared.await.map(drop) }, what, remedy).await
}

async fn declare_exchange(
    broker: &Broker,
    channel: &Channel,
    exchange: ShortString,
) -> Result<(), TransportError> {
    let options = ExchangeDeclareOptions {
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        nowait: false,
    };
    let what = format!("exchange {:?} at {}", exchange.as_str(), broker.address);
    let remedy = "delete the exchange and its bindings, or choose another topic name; a topic is a durable exchange \
                  of type topic";
    let declared = channel.exchange_declare(exchange, ExchangeKind::Topic, options, FieldTable::default());
    judged(broker, "exchange.declare", declared, what, remedy.to_owned()).await
}

/// Runs a declaration and explains a mismatch with what exists.
async fn judged(
    broker: &Broker,
    call: &'static str,
    declared: impl Future<Output = lapin::Result<()>>,
    what: String,
    remedy: String,
) -> Result<(), TransportError> {
    let mut mismatch = None;
    let answer = broker
        .bounded(call, async {
            declared.await.inspect_err(|error| {
                mismatch = amqp_error(error)
                    .filter(|error| error.get_id() == PRECONDITION_FAILED)
                    .map(|error| error.get_message().to_string());
            })
        })
        .await;
    match mismatch {
        Some(text) => Err(TransportError::Misconfigured { what, cause: cause(&text), remedy }),
        None => answer,
    }
}

/// The broker's text with the argument in front.
fn cause(text: &str) -> String {
    match text.split_once("inequivalent arg '").and_then(|(_, rest)| rest.split_once('\'')) {
        Some((argument, _)) => format!("exists with another {argument} ({text})"),
        None => format!("exists with other arguments ({text})"),
    }
}

fn checked(
    name: Result<Destination, crate::destination::DestinationError>,
) -> Result<ShortString, TransportError> {
    let wrong = |cause: String| TransportError::Misconfigured {
        what: "RabbitMQ inbox".to_owned(),
        cause,
        remedy: "choose another name".to_owned(),
    };
    let name = name.map_err(|error| wrong(error.to_string()))?;
    ShortString::try_new(name.name()).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_names_the_argument() {
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received 'quorum'";
        assert!(cause(text).starts_with("exists with another x-queue-type ("));
        assert!(cause("PRECONDITION_FAILED - other").starts_with("exists with other arguments"));
    }
}

//! Making queues, exchanges and bindings when a bus asks for it.
//!
//! Idempotent and safe from several processes at once. What exists with other arguments is never changed: RabbitMQ
//! cannot, so the error names the argument and what to do.

use futures::future::FutureExt as _;
use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use super::{
    connection::{Broker, NOT_FOUND, PRECONDITION_FAILED, amqp_error},
    exchanges::present,
    limits::{self, Refusal},
};
use crate::{
    Destination,
    limits::REPLY_QUEUE_KEPT,
    transport::{Inbox, TransportError},
};

/// The inbox's queue, its topics' exchanges, and a binding for everything between them.
pub(super) async fn declare(broker: &Broker, inbox: &Inbox) -> Result<(), TransportError> {
    let connection = broker.connect("declare").await?;
    let queue = checked(Destination::queue(inbox.queue.as_str()))?;
    declare_queue(broker, &connection, &queue, inbox).await?;
    let channel = broker.bounded("channel.open", connection.create_channel()).await?;
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

/// Which of these do not exist, asked passively: that needs no permission and changes nothing.
pub(super) async fn missing(
    broker: &Broker,
    destinations: &[Destination],
) -> Result<Vec<String>, TransportError> {
    let connection = broker.connect("check").await?;
    let mut missing = Vec::new();
    for destination in destinations {
        // On a channel of its own, which a refusal closes.
        let channel = broker.bounded("channel.open", connection.create_channel()).await?;
        let name = checked(Ok(destination.clone()))?;
        let (call, code) = match destination {
            Destination::Queue(_) => {
                let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let declared = channel.queue_declare(name, options, FieldTable::default());
                ("queue.declare", present(async { declared.await.map(drop) }).boxed())
            }
            Destination::Topic(_) => {
                let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                let kind = ExchangeKind::Topic;
                (
                    "exchange.declare",
                    present(channel.exchange_declare(name, kind, options, FieldTable::default())).boxed(),
                )
            }
        };
        if broker.bounded(call, code).await? == Some(NOT_FOUND) {
            let what = if matches!(destination, Destination::Queue(_)) { "queue" } else { "exchange" };
            missing.push(format!(
                "{what} {:?} does not exist; declare it, or correct the destination {destination}",
                destination.name()
            ));
        }
    }
    // Everything is known; a failure to hang up politely is not the caller's problem.
    let _ = broker.bounded("connection.close", connection.close(200, "checked".into())).await;
    Ok(missing)
}

/// Declares queues that nobody reads yet, and exchanges without a binding.
pub(super) async fn make(broker: &Broker, destinations: &[Destination]) -> Result<(), TransportError> {
    let connection = broker.connect("declare").await?;
    for destination in destinations {
        let name = checked(Ok(destination.clone()))?;
        match destination {
            Destination::Queue(queue) => {
                declare_queue(broker, &connection, &name, &Inbox::new(queue)).await?;
            }
            Destination::Topic(_) => {
                let channel = broker.bounded("channel.open", connection.create_channel()).await?;
                declare_exchange(broker, &channel, name).await?;
            }
        }
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

/// Deletes the queue, with what is in it.
pub(super) async fn remove(broker: &Broker, inbox: &Inbox) -> Result<(), TransportError> {
    let connection = broker.connect("remove").await?;
    let channel = broker.bounded("channel.open", connection.create_channel()).await?;
    let queue = checked(Destination::queue(inbox.queue.as_str()))?;
    let options = QueueDeleteOptions { if_unused: false, if_empty: false, nowait: false };
    let deleted = channel.queue_delete(queue, options);
    broker.bounded("queue.delete", async { deleted.await.map(drop) }).await?;
    // It is deleted; a failure to hang up politely is not the caller's problem.
    let _ = broker.bounded("connection.close", connection.close(200, "removed".into())).await;
    Ok(())
}

/// The queue, with a limit on deliveries that our attempts do not reach.
async fn declare_queue(
    broker: &Broker,
    connection: &Connection,
    queue: &ShortString,
    inbox: &Inbox,
) -> Result<(), TransportError> {
    let quorum = broker.settings.quorum && !inbox.temporary;
    let remedy = format!("delete the queue once it is empty, or set quorum = {} to use it as it is", !quorum);
    let what = format!("queue {:?} at {}", queue.as_str(), broker.address);
    let declared = |limit| declare_once(broker, connection, queue, inbox.temporary, limit);
    let mismatch = |text: &str| TransportError::Misconfigured {
        what: what.clone(),
        cause: cause(text),
        remedy: remedy.clone(),
    };
    let Some(text) = declared(quorum.then_some(limits::UNREACHED)).await? else { return Ok(()) };
    let refusal = limits::judge(&text);
    let Some(limit) = refusal.limit() else { return Err(mismatch(&text)) };
    limits::allow(limit, inbox.attempts_max, &what)?;
    let as_it_is = match refusal {
        Refusal::Limited(limit) => i32::try_from(limit).ok(),
        _ => None,
    };
    match declared(as_it_is).await? {
        Some(text) => Err(mismatch(&text)),
        None => Ok(()),
    }
}

/// Declares the queue on a channel of its own, which a refusal closes. Returns the broker's words when it exists otherwise, or
/// an argument is not known.
async fn declare_once(
    broker: &Broker,
    connection: &Connection,
    queue: &ShortString,
    temporary: bool,
    limit: Option<i32>,
) -> Result<Option<String>, TransportError> {
    let kind = if broker.settings.quorum && !temporary { "quorum" } else { "classic" };
    let mut arguments = FieldTable::default();
    if temporary {
        // Not auto-delete: it has to outlive a lost connection of its consumer.
        let unused_ms = u32::try_from(REPLY_QUEUE_KEPT.as_millis()).unwrap_or(u32::MAX);
        arguments.insert("x-expires".into(), AMQPValue::LongUInt(unused_ms));
    }
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from(kind)));
    if let Some(limit) = limit {
        arguments.insert(limits::ARGUMENT.into(), AMQPValue::LongInt(limit));
    }
    let options = QueueDeclareOptions {
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
    };
    let channel = broker.bounded("channel.open", connection.create_channel()).await?;
    let declared = channel.queue_declare(queue.clone(), options, arguments);
    let answer = refused(broker, "queue.declare", async { declared.await.map(drop) }).await?;
    if answer.is_none() {
        // Hanging up is polite; the answer was what counted.
        let _ = broker.bounded("channel.close", channel.close(200, "declared".into())).await;
    }
    Ok(answer)
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
    match refused(broker, call, declared).await? {
        Some(text) => Err(TransportError::Misconfigured { what, cause: cause(&text), remedy }),
        None => Ok(()),
    }
}

/// Runs a declaration; the broker's words when it does not fit what exists.
async fn refused(
    broker: &Broker,
    call: &'static str,
    declared: impl Future<Output = lapin::Result<()>>,
) -> Result<Option<String>, TransportError> {
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
        Some(text) => Ok(Some(text)),
        None => answer.map(|()| None),
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

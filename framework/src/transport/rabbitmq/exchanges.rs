//! Which exchanges exist, asked before the first publish to each.
//!
//! A publish to a missing exchange makes RabbitMQ close the channel, and every unconfirmed neighbour on it becomes
//! unknown. So a publisher asks first, passively and on a channel of its own, and remembers the answer.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use lapin::{
    Connection, ExchangeKind,
    options::ExchangeDeclareOptions,
    protocol::AMQPError,
    types::{FieldTable, ShortString},
};

use super::connection::{Broker, NOT_FOUND, channel_error};
use crate::transport::TransportError;

/// How long "does not exist" is believed: long enough for a burst, short enough for whoever declares it now.
const MISSING_FOR: Duration = Duration::from_secs(1);

/// What is known about an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Exists,
    Missing,
    /// Nobody knows yet; it is being asked. Try again after the next [`Exchanges::poll`].
    Asking,
}

type Answer = BoxFuture<'static, Result<bool, TransportError>>;

/// The answers of one connection.
#[derive(Default)]
pub(super) struct Exchanges {
    existing: HashSet<String>,
    missing: HashMap<String, Instant>,
    asking: Option<(String, Answer)>,
    /// A question was started and not yet polled.
    fresh: bool,
}

impl Exchanges {
    /// Whether `name` exists; starts to ask when that is not known. One question at a time.
    pub(super) fn presence(
        &mut self,
        name: &str,
        broker: &Arc<Broker>,
        connection: &Arc<Connection>,
    ) -> Presence {
        if self.existing.contains(name) {
            return Presence::Exists;
        }
        if self.missing.get(name).is_some_and(|since| since.elapsed() < MISSING_FOR) {
            return Presence::Missing;
        }
        if self.asking.is_none() {
            let answer = ask(broker.clone(), connection.clone(), name.to_owned());
            self.asking = Some((name.to_owned(), Box::pin(answer)));
            self.fresh = true;
        }
        Presence::Asking
    }

    /// Forgets everything: the channel was closed, perhaps because an exchange was deleted.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether a question waits for its first poll, without which nothing would wake us.
    pub(super) fn fresh(&self) -> bool {
        self.fresh
    }

    /// Takes the answer when it is there; then the rows that wait for it can be looked at again.
    ///
    /// # Errors
    /// When the connection cannot answer any more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.fresh = false;
        let Some((_, answer)) = &mut self.asking else { return Poll::Pending };
        let Poll::Ready(answer) = answer.as_mut().poll(cx) else { return Poll::Pending };
        let Some((name, _)) = self.asking.take() else { return Poll::Pending };
        self.missing.retain(|_, since| since.elapsed() < MISSING_FOR);
        if answer? {
            self.existing.insert(name);
        } else {
            self.missing.insert(name, Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

async fn ask(broker: Arc<Broker>, connection: Arc<Connection>, name: String) -> Result<bool, TransportError> {
    let channel = broker.bounded_on(&connection, "channel.open", connection.create_channel()).await?;
    let Ok(short) = ShortString::try_new(name) else { return Ok(false) };
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let declared = channel.exchange_declare(short, ExchangeKind::Topic, options, FieldTable::default());
    let answer = present(declared);
    Ok(broker.bounded_on(&connection, "exchange.declare", answer).await? != Some(NOT_FOUND))
}

/// The broker's answer to a passive declaration: none when the thing exists, or the code of the refusal. Any other than
/// [`NOT_FOUND`] says nothing about publishing: the broker judges the message itself.
pub(super) async fn present(declared: impl Future<Output = lapin::Result<()>>) -> lapin::Result<Option<u16>> {
    match declared.await {
        Ok(()) => Ok(None),
        Err(error) => match channel_error(&error).map(AMQPError::get_id) {
            Some(code) => Ok(Some(code)),
            None => Err(error),
        },
    }
}

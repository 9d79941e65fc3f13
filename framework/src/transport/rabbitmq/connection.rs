//! Opening connections and channels, and saying what went wrong without giving away the password.
//!
//! Every call to the client goes through [`Broker::bounded`], so nothing waits for ever. Publisher and consumer each
//! open a connection of their own through here, one per generation.

use std::{
    fmt,
    future::Future,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use lapin::{
    Channel, Connection, ConnectionProperties, ErrorKind,
    options::ConfirmSelectOptions,
    protocol::{AMQPError, AMQPErrorKind},
    uri::AMQPUri,
};
use secrecy::ExposeSecret as _;
use url::Url;
use uuid::Uuid;

use super::{Settings, tls};
use crate::transport::TransportError;

/// The broker that one transport talks to.
pub(super) struct Broker {
    pub(super) settings: Settings,
    /// The address without the password; what errors and logs show.
    pub(super) address: String,
    uri: AMQPUri,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A connection with its publishing channels, in confirm mode.
pub(super) struct Opened {
    pub(super) connection: Arc<Connection>,
    pub(super) channels: Vec<Channel>,
}

impl Broker {
    pub(super) fn new(settings: Settings) -> Result<Self, TransportError> {
        settings.check()?;
        let (mut uri, address) = parse(settings.url.expose_secret())?;
        tls::prepare(&settings, &mut uri)?;
        uri.query.heartbeat = Some(settings.heartbeat_s);
        uri.query.connection_timeout =
            Some(u64::try_from(settings.connect_timeout.as_millis()).unwrap_or(u64::MAX));
        Ok(Self { settings, address, uri })
    }

    /// Opens a connection and closes it again.
    pub(super) async fn check(&self) -> Result<(), TransportError> {
        let connection = self.connect("check").await?;
        // An error while hanging up changes nothing: the broker has already let us in.
        let _ = self.bounded("connection.close", connection.close(200, "bye".into())).await;
        Ok(())
    }

    /// A new connection, shown as `barid PURPOSE` in the broker's list of connections.
    pub(super) async fn connect(&self, purpose: &str) -> Result<Connection, TransportError> {
        let properties =
            ConnectionProperties::default().with_connection_name(format!("barid {purpose}").into());
        let connecting = async {
            let tls = tls::load(&self.settings)?;
            let runtime = lapin::runtime::default_runtime()?;
            Connection::connect_uri_with_config(self.uri.clone(), properties, tls, runtime).await
        };
        match tokio::time::timeout(self.settings.connect_timeout, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.connect_error(&error)),
            Err(_) => Err(TransportError::Unreachable {
                broker: self.address.clone(),
                cause: format!("no answer within {:?}", self.settings.connect_timeout),
            }),
        }
    }

    /// A new connection with all channels of a publisher.
    pub(super) async fn open_publishing(self: Arc<Self>) -> Result<Opened, TransportError> {
        let connection = Arc::new(self.connect("publisher").await?);
        let mut channels = Vec::with_capacity(self.settings.channels.into());
        for _ in 0..self.settings.channels {
            channels.push(self.publishing_channel(&connection).await?);
        }
        Ok(Opened { connection, channels })
    }

    /// One more channel in confirm mode.
    pub(super) async fn publishing_channel(
        &self,
        connection: &Connection,
    ) -> Result<Channel, TransportError> {
        let channel = self.bounded_on(connection, "channel.open", connection.create_channel()).await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        self.bounded_on(connection, "confirm.select", confirms).await?;
        Ok(channel)
    }

    /// Awaits one answer of the broker for at most the call timeout.
    pub(super) async fn bounded<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, TransportError> {
        let after = self.settings.call_timeout;
        match tokio::time::timeout(after, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.call_error(&error)),
            Err(_) => Err(TransportError::Timeout { broker: self.address.clone(), call, after }),
        }
    }

    /// As [`Broker::bounded`], on a connection that publishes. While the broker blocks publishers it reads nothing from such a
    /// connection, so the clock stands still.
    pub(super) async fn bounded_on<T>(
        &self,
        connection: &Connection,
        call: &'static str,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, TransportError> {
        let mut answer = pin!(answer);
        loop {
            let within = self.bounded(call, answer.as_mut()).await;
            if matches!(within, Err(TransportError::Timeout { .. })) && connection.status().blocked() {
                continue;
            }
            return within;
        }
    }

    /// What an error after the login means.
    pub(super) fn call_error(&self, error: &lapin::Error) -> TransportError {
        let broker = self.address.clone();
        let cause = error.to_string();
        match amqp_error(error).map(AMQPError::get_id) {
            Some(ACCESS_REFUSED | NOT_ALLOWED) => TransportError::Refused { broker, cause },
            _ => TransportError::Lost { broker, cause },
        }
    }

    /// [`TransportError::Lost`] with a cause of our own.
    pub(super) fn lost(&self, cause: impl Into<String>) -> TransportError {
        TransportError::Lost { broker: self.address.clone(), cause: cause.into() }
    }

    fn connect_error(&self, error: &lapin::Error) -> TransportError {
        if is_untrusted(error) {
            let cause = format!(
                "{error}; its certificate proves nothing: name its authority with ca_file, and the host as the certificate names it"
            );
            return TransportError::Unreachable { broker: self.address.clone(), cause };
        }
        match self.call_error(error) {
            TransportError::Lost { broker, cause } => TransportError::Unreachable { broker, cause },
            other => other,
        }
    }
}

/// AMQP reply code: credentials or permission.
const ACCESS_REFUSED: u16 = 403;
/// AMQP reply code: queue or exchange does not exist.
pub(super) const NOT_FOUND: u16 = 404;
/// AMQP reply code: it exists with other arguments, or a frame's content cannot be taken.
pub(super) const PRECONDITION_FAILED: u16 = 406;
/// AMQP reply code: the virtual host does not exist or is closed to the user.
const NOT_ALLOWED: u16 = 530;

/// Whether the handshake found a certificate of another name, or of an authority that is not trusted: what TLS says is in what was read.
fn is_untrusted(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::IOError(cause) if cause.kind() == std::io::ErrorKind::InvalidData)
}

/// The broker's own words, when the error is the broker's.
pub(super) fn amqp_error(error: &lapin::Error) -> Option<&AMQPError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error),
        _ => None,
    }
}

/// The broker's own words when it closed a channel, and only that.
pub(super) fn channel_error(error: &lapin::Error) -> Option<&AMQPError> {
    amqp_error(error).filter(|error| matches!(error.kind(), AMQPErrorKind::Soft(_)))
}

/// Takes the URL apart. Errors do not repeat it: it holds the password.
fn parse(text: &str) -> Result<(AMQPUri, String), TransportError> {
    let wrong = |cause: String| TransportError::Misconfigured {
        what: "RabbitMQ URL".to_owned(),
        cause,
        remedy:
            "write amqp://USER:PASSWORD@HOST:PORT/VHOST, percent-encoded, %2f for the default virtual host"
                .to_owned(),
    };
    if !text.starts_with("amqp://") && !text.starts_with("amqps://") {
        return Err(wrong("does not start with amqp:// or amqps://".to_owned()));
    }
    let url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
    let mut uri: AMQPUri = text.parse().map_err(|_| wrong("cannot be parsed".to_owned()))?;
    match url.host() {
        // The client's own parser takes an IPv6 address for a missing host and falls back to localhost.
        Some(url::Host::Ipv6(host)) => uri.authority.host = host.to_string(),
        Some(_) => {}
        None => return Err(wrong("has no host".to_owned())),
    }
    let address = format!(
        "{}://{}@{}:{}/{}",
        uri.scheme,
        uri.authority.userinfo.username,
        uri.authority.host,
        uri.authority.port,
        uri.vhost.trim_start_matches('/'),
    );
    Ok((uri, address))
}

/// The pauses between reconnects: doubling, with jitter, and starting over once a connection held for a while.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    attempt: u32,
    opened_at: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(settings: &Settings) -> Self {
        let (min, max) = (settings.reconnect_pause_min, settings.reconnect_pause_max);
        Self { min, max, attempt: 0, opened_at: None }
    }

    pub(super) fn opened(&mut self) {
        self.opened_at = Some(Instant::now());
    }

    pub(super) fn pause(&mut self) -> Duration {
        if self.opened_at.take().is_some_and(|at| at.elapsed() > self.max) {
            self.attempt = 0;
        }
        let full = pause(self.attempt, self.min, self.max);
        self.attempt = self.attempt.saturating_add(1);
        // Between half and all of it. The random bits of a UUIDv7 are random enough to spread reconnects.
        let eighths = 4 + (Uuid::now_v7().as_u128() % 5) as u32;
        full * eighths / 8
    }
}

fn pause(attempt: u32, min: Duration, max: Duration) -> Duration {
    min.saturating_mul(1u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_password() {
        for (url, shown) in [
            ("amqp://shop:s3cret@db:5673/%2f", "amqp://shop@db:5673/"),
            ("amqps://shop:s3cret@db/orders", "amqps://shop@db:5671/orders"),
            ("amqp://db", "amqp://guest@db:5672/"),
            ("amqp://shop:s3cret@[::1]:1/a", "amqp://shop@::1:1/a"),
            ("amqp://shop:s3cret@127.0.0.1:1/a", "amqp://shop@127.0.0.1:1/a"),
        ] {
            let broker = Broker::new(Settings::new(url)).unwrap();
            assert_eq!(broker.address, shown, "{url}");
            assert!(!format!("{broker:?}").contains("s3cret"));
        }
    }

    #[test]
    fn a_bad_url_is_explained_without_repeating_it() {
        for url in ["shop:s3cret@db", "http://shop:s3cret@db", "amqp://shop:s3cret@db:99999", "amqp://", ""] {
            let error = Broker::new(Settings::new(url)).unwrap_err();
            assert!(matches!(error, TransportError::Misconfigured { .. }), "{url}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let ms = |attempt| pause(attempt, min, max).as_millis();
        assert_eq!([ms(0), ms(1), ms(5), ms(6), ms(40)], [100, 200, 3200, 5000, 5000]);
    }
}

//! How to reach the broker and how much may be in flight.

use std::time::Duration;

use secrecy::SecretString;

use crate::{limits, transport::TransportError};

/// How the RabbitMQ transport behaves. Every field has a default: start from [`Settings::new`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// `amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps://` for TLS. The virtual host is percent-encoded: `/%2f` is
    /// RabbitMQ's default one. Never shown in an error or a log; those name user, host and virtual host.
    pub url: SecretString,
    /// Channels of one publisher. A row's channel is chosen by the hash of its ordering key, so that rows of one key
    /// stay in order; unordered rows go round. 2 to 4 saturate a node. Default: 4.
    pub channels: u16,
    /// Rows that may be published and not yet settled, over all channels. Quorum queues need some thousands to
    /// amortise their fsyncs; classic queues gain nothing beyond 256. Default: 256.
    pub window_rows_max: usize,
    /// Bytes of bodies that may be published and not yet settled. Default: 32 MiB.
    pub window_bytes_max: usize,
    /// Largest body that is sent; a larger one fails permanently here, because the broker would close the channel over
    /// it. RabbitMQ refuses more than 16 MiB by default since 4.0. Default: 16 MiB.
    pub body_bytes_max: usize,
    /// How long a row may wait for its confirm before its outcome counts as unknown. The clock stands still while the
    /// broker blocks publishers. Default: 30 s, which is less than two missed heartbeats.
    pub confirm_timeout: Duration,
    /// How long opening a connection may take, TLS and login included. Default: 10 s.
    pub connect_timeout: Duration,
    /// How long any other question to the broker may take. Default: 30 s.
    pub call_timeout: Duration,
    /// How long [`Publisher::close`](crate::transport::Publisher::close) waits for confirms. Default: 10 s.
    pub close_timeout: Duration,
    /// Seconds between heartbeats; a connection that is silent for two of them is lost. 0 takes the broker's value, and
    /// what the URL says is not looked at. Default: 20.
    pub heartbeat_s: u16,
    /// The pause before the first reconnect; it doubles up to `reconnect_pause_max`. Default: 100 ms.
    pub reconnect_pause_min: Duration,
    /// The longest pause between reconnects. Default: 5 s.
    pub reconnect_pause_max: Duration,
    /// Whether declared queues are quorum queues. Classic queues do not survive the loss of their node. Default: true.
    pub quorum: bool,
}

impl Settings {
    /// The defaults, for the broker at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: SecretString::from(url.into()),
            channels: 4,
            window_rows_max: limits::WINDOW_ROWS_MAX,
            window_bytes_max: limits::WINDOW_BYTES_MAX,
            body_bytes_max: limits::BODY_BYTES_MAX,
            confirm_timeout: limits::CALL_TIMEOUT,
            connect_timeout: Duration::from_secs(10),
            call_timeout: limits::CALL_TIMEOUT,
            close_timeout: Duration::from_secs(10),
            heartbeat_s: 20,
            reconnect_pause_min: Duration::from_millis(100),
            reconnect_pause_max: Duration::from_secs(5),
            quorum: true,
        }
    }

    /// Refuses values that could never work.
    pub(super) fn check(&self) -> Result<(), TransportError> {
        let positive = [
            ("channels", usize::from(self.channels)),
            ("window_rows_max", self.window_rows_max),
            ("window_bytes_max", self.window_bytes_max),
        ];
        match positive.into_iter().find(|(_, value)| *value == 0) {
            None => Ok(()),
            Some((name, _)) => Err(TransportError::Misconfigured {
                what: format!("RabbitMQ setting {name}"),
                cause: "is 0, so nothing could ever be published".to_owned(),
                remedy: "set it to at least 1, or leave it out for the default".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_in_the_debug_text() {
        assert!(!format!("{:?}", Settings::new("amqp://u:s3cret@h/")).contains("s3cret"));
    }

    #[test]
    fn a_zero_that_would_block_for_ever_is_refused() {
        let defaults = Settings::new("amqp://h");
        assert!(defaults.check().is_ok());
        let zero = Settings { channels: 0, ..defaults };
        assert!(zero.check().unwrap_err().to_string().contains("channels"));
    }
}

//! How to reach the broker and how much may be in flight.

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;

use crate::{limits, transport::TransportError};

/// How the RabbitMQ transport behaves. Every field has a default: start from [`Settings::new`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// `amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps://` for TLS. The virtual host is percent-encoded: `/%2f` is
    /// RabbitMQ's default one. Never shown in an error or a log; those name user, host and virtual host.
    pub url: SecretString,
    /// Certificates of authorities, in PEM, that are trusted beside the public ones. The certificate of the broker must name
    /// the host of the URL. Read again for every connection, so that it can be replaced under way. Default: none.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and those it was signed with, in PEM, for brokers that ask for one. With it and without a user in
    /// the URL the broker takes the user from the certificate (`EXTERNAL`; `?auth_mechanism=external` in the URL says so
    /// too). Needs `client_key_file`. Default: none.
    pub client_certificate_file: Option<PathBuf>,
    /// The key of our own certificate, in PEM, without a password. Default: none.
    pub client_key_file: Option<PathBuf>,
    /// Channels of one publisher. A row's channel is chosen by the hash of its ordering key, so that rows of one key
    /// stay in order; unordered rows go round. 2 to 4 saturate a node. Default: 4.
    pub channels: u16,
    /// Rows that may be published and not yet settled, over all channels: at least, and what a publisher begins with. Between
    /// this and `window_rows_max` it finds out by itself how many it needs, by comparing what the broker confirms. The same
    /// number for both fixes it. Default: 256, beyond which classic queues gain nothing.
    pub window_rows_min: usize,
    /// The same, at most; a smaller one than `window_rows_min` counts for both. Default: 4,000: quorum queues need some
    /// thousands to amortise their fsyncs.
    pub window_rows_max: usize,
    /// Bytes of bodies that may be published and not yet settled. Default: 32 MiB.
    pub window_bytes_max: usize,
    /// Largest body that is sent; a larger one fails permanently here, because the broker would close the channel over
    /// it. RabbitMQ refuses more than 16 MiB by default since 4.0. Default: 16 MiB.
    pub body_bytes_max: usize,
    /// How long a row may wait for its confirm before its outcome counts as unknown. The clock stands still while the
    /// broker blocks publishers. Must be shorter than a heartbeat, so that a broker that hangs costs a window of unknown rows
    /// once, and not again when the connection is given up. Default: 10 s.
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
            ca_file: None,
            client_certificate_file: None,
            client_key_file: None,
            channels: 4,
            window_rows_min: limits::WINDOW_ROWS,
            window_rows_max: limits::WINDOW_ROWS_MAX,
            window_bytes_max: limits::WINDOW_BYTES_MAX,
            body_bytes_max: limits::BODY_BYTES_MAX,
            confirm_timeout: limits::CONFIRM_TIMEOUT,
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
            ("window_rows_min", self.window_rows_min),
            ("window_rows_max", self.window_rows_max),
            ("window_bytes_max", self.window_bytes_max),
        ];
        if let Some((name, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            let cause = "is 0, so nothing could ever be published".to_owned();
            return Err(wrong(name, cause, "set it to at least 1, or leave it out for the default"));
        }
        let heartbeat = Duration::from_secs(self.heartbeat_s.into());
        if self.heartbeat_s > 0 && self.confirm_timeout >= heartbeat {
            let cause = format!(
                "is {:?}, not less than the heartbeat of {heartbeat:?}: a broker that hangs would be noticed by the lost \
                 connection first, and every row on it be unknown",
                self.confirm_timeout
            );
            return Err(wrong("confirm_timeout", cause, "lower it, or raise heartbeat_s"));
        }
        if self.client_certificate_file.is_some() != self.client_key_file.is_some() {
            let cause = "one of client_certificate_file and client_key_file is missing".to_owned();
            return Err(wrong("client_certificate_file", cause, "set both, or none"));
        }
        Ok(())
    }
}

fn wrong(name: &str, cause: String, remedy: &str) -> TransportError {
    TransportError::Misconfigured {
        what: format!("RabbitMQ setting {name}"),
        cause,
        remedy: remedy.to_owned(),
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
    fn what_could_never_work_is_refused_by_name() {
        let defaults = Settings::new("amqp://h");
        assert!(defaults.check().is_ok());
        type Spoil = fn(&mut Settings);
        let spoiled: [(&str, Spoil); 4] = [
            ("channels", |settings| settings.channels = 0),
            ("window_rows_max", |settings| settings.window_rows_max = 0),
            ("confirm_timeout", |settings| settings.confirm_timeout = Duration::from_secs(20)),
            ("client_certificate_file", |settings| settings.client_key_file = Some("key.pem".into())),
        ];
        for (name, spoil) in spoiled {
            let mut settings = defaults.clone();
            spoil(&mut settings);
            let text = settings.check().unwrap_err().to_string();
            assert!(text.contains(name), "{name}: {text}");
        }
        let silent = Settings { heartbeat_s: 0, confirm_timeout: Duration::from_secs(60), ..defaults };
        assert!(silent.check().is_ok(), "without a heartbeat there is nothing to be shorter than");
    }
}

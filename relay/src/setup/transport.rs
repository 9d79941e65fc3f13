//! From the settings of a sink to what publishes there.

use std::{sync::Arc, time::Duration};

use barid::transport::{Transport, sql::SqlQueue};
#[cfg(any(feature = "rabbitmq", feature = "kafka"))]
use secrecy::ExposeSecret;

#[cfg(feature = "kafka")]
use super::file_or_value;
use super::{CONNECTIONS, SetupError, address, open};
use crate::config::{Config, SinkConfig, SinkKind};

/// Makes the transport of a sink.
///
/// # Errors
/// When its settings cannot be used. A broker that is down is none.
pub async fn transport(
    config: &Config,
    name: &str,
    sink: &SinkConfig,
) -> Result<Arc<dyn Transport>, SetupError> {
    let confirm_timeout = config.confirm_timeout(sink);
    let section = format!("[sink.{name}]");
    match sink.kind {
        SinkKind::Sql => {
            let url = address(&section, sink.url.as_ref(), sink.url_file.as_deref())?;
            Ok(Arc::new(SqlQueue::new(open(section, &url, CONNECTIONS).await?)))
        }
        SinkKind::Rabbitmq => rabbitmq(section, sink, confirm_timeout),
        SinkKind::Kafka => kafka(section, sink, confirm_timeout, None),
    }
}

#[cfg(feature = "rabbitmq")]
fn rabbitmq(
    section: String,
    sink: &SinkConfig,
    confirm_timeout: Duration,
) -> Result<Arc<dyn Transport>, SetupError> {
    use barid::transport::rabbitmq::{RabbitMq, Settings};

    let url = address(&section, sink.url.as_ref(), sink.url_file.as_deref())?;
    let mut settings = Settings::new(url.expose_secret());
    settings.window_rows_max = sink.window().rows_max;
    settings.window_bytes_max = sink.window().bytes_max;
    settings.window_rows_min = sink.window_rows_min.unwrap_or(settings.window_rows_min);
    settings.channels = sink.channels.unwrap_or(settings.channels);
    settings.body_bytes_max = sink.body_bytes_max.unwrap_or(settings.body_bytes_max);
    settings.confirm_timeout = confirm_timeout;
    settings.heartbeat_s = sink.heartbeat_s.unwrap_or(settings.heartbeat_s);
    settings.ca_file.clone_from(&sink.ca_file);
    settings.client_certificate_file.clone_from(&sink.client_certificate_file);
    settings.client_key_file.clone_from(&sink.client_key_file);
    let made = RabbitMq::new(settings).map_err(|cause| SetupError::Transport { section, cause })?;
    Ok(Arc::new(made))
}

#[cfg(not(feature = "rabbitmq"))]
fn rabbitmq(
    section: String,
    _sink: &SinkConfig,
    _timeout: Duration,
) -> Result<Arc<dyn Transport>, SetupError> {
    Err(SetupError::Feature { section, feature: "rabbitmq" })
}

#[cfg(feature = "kafka")]
fn kafka(
    section: String,
    sink: &SinkConfig,
    confirm_timeout: Duration,
    transactional_id: Option<String>,
) -> Result<Arc<dyn Transport>, SetupError> {
    use barid::transport::kafka::{Kafka, Settings};

    let mut settings = Settings::new(sink.brokers.clone().unwrap_or_default());
    settings.window_rows_max = sink.window().rows_max;
    settings.window_bytes_max = sink.window().bytes_max;
    settings.message_bytes_max = sink.body_bytes_max.unwrap_or(settings.message_bytes_max);
    settings.message_timeout = confirm_timeout;
    settings.transactional_id = transactional_id;
    let (encrypts, logs_in) = sink.encrypts_and_logs_in();
    if encrypts {
        settings = settings.ssl(sink.ca_file.as_deref());
    }
    if let (Some(certificate), Some(key)) = (&sink.client_certificate_file, &sink.client_key_file) {
        settings = settings.client_certificate(certificate, key);
    }
    if logs_in {
        let mechanism = sink.sasl_mechanism.as_deref().unwrap_or("SCRAM-SHA-512");
        let password =
            file_or_value(&section, "password_file", sink.password.as_ref(), sink.password_file.as_deref())?;
        let username = sink.username.as_deref().unwrap_or_default();
        settings = settings.sasl(mechanism, username, password.expose_secret());
    }
    for (name, value) in &sink.properties {
        settings = settings.property(name, value.expose_secret());
    }
    let made = Kafka::new(settings).map_err(|cause| SetupError::Transport { section, cause })?;
    Ok(Arc::new(made))
}

#[cfg(not(feature = "kafka"))]
fn kafka(
    section: String,
    _sink: &SinkConfig,
    _timeout: Duration,
    _id: Option<String>,
) -> Result<Arc<dyn Transport>, SetupError> {
    Err(SetupError::Feature { section, feature: "kafka" })
}

/// The transport for the `strict` routes of a source to a Kafka sink.
pub(super) fn transactional(
    config: &Config,
    source: &str,
    name: &str,
    sink: &SinkConfig,
) -> Result<Arc<dyn Transport>, SetupError> {
    let id = sink.transactional_id.clone().unwrap_or_else(|| format!("barid-{source}-{name}"));
    kafka(format!("[sink.{name}]"), sink, config.confirm_timeout(sink), Some(id))
}

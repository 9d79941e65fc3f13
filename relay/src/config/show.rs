//! The effective configuration, without secrets.

use std::fmt;

use barid::store::pool::redacted;
use secrecy::{ExposeSecret, SecretString};

use crate::archive::After;

use super::{Config, Security, SinkConfig, SourceConfig};

impl fmt::Display for Config {
    /// As TOML, defaults included. What is secret reads `***`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, source) in &self.source {
            writeln!(f, "[source.{name}]")?;
            source.show(f)?;
        }
        for (name, sink) in &self.sink {
            writeln!(f, "\n[sink.{name}]")?;
            sink.show(f)?;
        }
        for (name, resource) in &self.resource {
            writeln!(f, "\n[resource.{name}]")?;
            address(f, resource.url.as_ref(), resource.url_file.as_ref())?;
        }
        for (name, format) in &self.format {
            writeln!(f, "\n[format.{name}]")?;
            format.show(f)?;
        }
        for route in &self.route {
            let order = format!("{:?}", self.order(route)).to_lowercase();
            writeln!(
                f,
                "\n[[route]]\ndestination = {:?}\nsink = {:?}\norder = {order:?}\non_poison = {:?}\nformat = {:?}",
                route.destination,
                route.sink,
                route.on_poison.as_str(),
                route.format_name()
            )?;
        }
        let relay = &self.relay;
        writeln!(f, "\n[relay]")?;
        writeln!(
            f,
            "buffer_rows_max = {}\nbuffer_bytes_max = {}",
            relay.buffer_rows_max, relay.buffer_bytes_max
        )?;
        writeln!(
            f,
            "key_rows_max = {}\ndelete_rows_max = {}\ndelete_wait_ms = {}",
            relay.key_rows_max, relay.delete_rows_max, relay.delete_wait_ms
        )?;
        writeln!(f, "retry_min_ms = {}\nretry_max_ms = {}", relay.retry_min_ms, relay.retry_max_ms)?;
        writeln!(f, "drain_ms = {}\nlease_ms = {}", relay.drain_ms, relay.lease_ms)?;
        writeln!(f, "old_transaction_ms = {}", relay.old_transaction_ms)?;
        writeln!(f, "instance = {:?}", relay.instance)?;
        let Some(admin) = &self.admin else { return Ok(()) };
        writeln!(f, "\n[admin]\nlisten = \"{}\"", admin.listen)?;
        if admin.token.is_some() {
            writeln!(f, "token = \"***\"")?;
        }
        if let Some(file) = &admin.token_file {
            writeln!(f, "token_file = {file:?}")?;
        }
        writeln!(f, "survey_ms = {}", admin.survey_ms)
    }
}

impl SourceConfig {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        address(f, self.url.as_ref(), self.url_file.as_ref())?;
        writeln!(f, "batch_rows = {}", self.batch_rows)?;
        writeln!(f, "poll_min_ms = {}\nidle_poll_ms = {}", self.poll_min_ms, self.idle_poll_ms)?;
        if let Some(doorbell) = &self.doorbell {
            writeln!(f, "doorbell = \"{doorbell}\"")?;
        }
        if let Some(channel) = &self.listen {
            writeln!(f, "listen = \"{channel}\"")?;
        }
        if let Some(table) = &self.table {
            writeln!(f, "table = \"{table}\"")?;
        }
        if let Some(preset) = &self.preset {
            writeln!(f, "preset = {preset:?}")?;
        }
        if let Some(extra) = &self.extra_columns {
            writeln!(f, "extra_columns = {extra:?}")?;
        }
        for (role, column) in &self.columns {
            writeln!(f, "columns.{role} = {column:?}")?;
        }
        writeln!(f, "after = {:?}", self.after.as_str())?;
        if let After::Archive { keep } = self.after() {
            writeln!(f, "archive_for_s = {}", keep.as_secs())?;
        }
        Ok(())
    }
}

impl SinkConfig {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kind = {:?}", format!("{:?}", self.kind).to_lowercase())?;
        address(f, self.url.as_ref(), self.url_file.as_ref())?;
        writeln!(f, "topology = {:?}", format!("{:?}", self.topology).to_lowercase())?;
        let security = self.security.map(|security| match security {
            Security::Plaintext => "plaintext",
            Security::Ssl => "ssl",
            Security::SaslPlaintext => "sasl_plaintext",
            Security::SaslSsl => "sasl_ssl",
        });
        let texts = [
            ("brokers", self.brokers.as_deref()),
            ("security", security),
            ("sasl_mechanism", self.sasl_mechanism.as_deref()),
            ("username", self.username.as_deref()),
            ("password", self.password.as_ref().map(|_| "***")),
            ("transactional_id", self.transactional_id.as_deref()),
        ];
        for (key, text) in texts.into_iter().filter_map(|(key, text)| Some((key, text?))) {
            writeln!(f, "{key} = {text:?}")?;
        }
        let files = [
            ("ca_file", &self.ca_file),
            ("client_certificate_file", &self.client_certificate_file),
            ("client_key_file", &self.client_key_file),
            ("password_file", &self.password_file),
        ];
        for (key, file) in files.into_iter().filter_map(|(key, file)| Some((key, file.as_ref()?))) {
            writeln!(f, "{key} = {file:?}")?;
        }
        let window = self.window();
        writeln!(f, "window_rows_max = {}\nwindow_bytes_max = {}", window.rows_max, window.bytes_max)?;
        let numbers = [
            ("window_rows_min", self.window_rows_min.map(|rows| rows as u64)),
            ("body_bytes_max", self.body_bytes_max.map(|bytes| bytes as u64)),
            ("confirm_timeout_ms", self.confirm_timeout_ms),
            ("heartbeat_s", self.heartbeat_s.map(u64::from)),
            ("channels", self.channels.map(u64::from)),
        ];
        for (key, number) in numbers.into_iter().filter_map(|(key, number)| Some((key, number?))) {
            writeln!(f, "{key} = {number}")?;
        }
        for name in self.properties.keys() {
            writeln!(f, "properties.{name:?} = \"***\"")?;
        }
        Ok(())
    }
}

fn address(
    f: &mut fmt::Formatter<'_>,
    url: Option<&SecretString>,
    file: Option<&std::path::PathBuf>,
) -> fmt::Result {
    if let Some(url) = url {
        writeln!(f, "url = {:?}", redacted(url.expose_secret()))?;
    }
    if let Some(file) = file {
        writeln!(f, "url_file = {file:?}")?;
    }
    Ok(())
}

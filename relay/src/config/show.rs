//! The effective configuration, without secrets.

use std::fmt;

use barid::store::pool::redacted;
use secrecy::{ExposeSecret, SecretString};

use super::{Config, SinkConfig, SourceConfig};

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
        for route in &self.route {
            let order = format!("{:?}", self.order(route)).to_lowercase();
            writeln!(
                f,
                "\n[[route]]\ndestination = {:?}\nsink = {:?}\norder = {order:?}\non_poison = {:?}",
                route.destination,
                route.sink,
                route.on_poison.as_str()
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
            "delete_rows_max = {}\ndelete_wait_ms = {}",
            relay.delete_rows_max, relay.delete_wait_ms
        )?;
        writeln!(f, "retry_min_ms = {}\nretry_max_ms = {}", relay.retry_min_ms, relay.retry_max_ms)?;
        writeln!(f, "drain_ms = {}\nlease_ms = {}", relay.drain_ms, relay.lease_ms)?;
        writeln!(f, "instance = {:?}", relay.instance)
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
        Ok(())
    }
}

impl SinkConfig {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kind = {:?}", format!("{:?}", self.kind).to_lowercase())?;
        address(f, self.url.as_ref(), self.url_file.as_ref())?;
        if let Some(brokers) = &self.brokers {
            writeln!(f, "brokers = {brokers:?}")?;
        }
        let window = self.window();
        writeln!(f, "window_rows_max = {}\nwindow_bytes_max = {}", window.rows_max, window.bytes_max)?;
        if let Some(channels) = self.channels {
            writeln!(f, "channels = {channels}")?;
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

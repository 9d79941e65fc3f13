//! What the program says while it works, on stderr, as much as RUST_LOG or the configuration wants.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter,
    filter::{ParseError, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// The RabbitMQ client shows each message that comes back, with its body, as a warning, and each frame at TRACE. Not even who asks for
/// that gets it: bodies are in no log.
fn may_be_shown(line: &Metadata<'_>) -> bool {
    let of_client = line.target().starts_with("lapin");
    !of_client || (*line.level() != Level::TRACE && !line.target().ends_with("::returned_messages"))
}

/// Changes how much is said.
pub(super) struct Log {
    /// RUST_LOG decides, whatever the configuration says.
    fixed: bool,
    replace: Box<dyn Fn(EnvFilter) + Send + Sync>,
}

impl Log {
    /// Begins to log.
    pub(super) fn start(wanted: &str) -> Self {
        let chosen = EnvFilter::try_from_default_env();
        let fixed = chosen.is_ok();
        // The configuration was checked.
        let filter = chosen.or_else(|_| EnvFilter::try_new(wanted)).unwrap_or_default();
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .with_filter_reloading();
        let handle = log.reload_handle();
        if let Err(error) = log.finish().with(filter_fn(may_be_shown)).try_init() {
            eprintln!("the log was set up before: {error}");
        }
        let replace = Box::new(move |filter| {
            if let Err(error) = handle.reload(filter) {
                tracing::error!(%error, "the log cannot be changed");
            }
        });
        Self { fixed, replace }
    }

    /// Whether RUST_LOG is set, so that the configuration has no say.
    pub(super) fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// From now on logs as much as this wants.
    pub(super) fn change(&self, wanted: &str) -> Result<(), ParseError> {
        (self.replace)(EnvFilter::try_new(wanted)?);
        Ok(())
    }
}

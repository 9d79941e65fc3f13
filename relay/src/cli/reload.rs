//! SIGHUP: reads the configuration again, takes over what nothing rests on, and says what it did not take over and why.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, PoisonError},
};

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, load, log::Log};
use crate::{
    config::{
        Config,
        changes::{changes, taken_over},
    },
    relay::Tuner,
};

/// The relays that work, and what can be changed about them.
pub(super) struct Reload {
    log: Log,
    tuners: Mutex<BTreeMap<String, Tuner>>,
    /// What is in effect.
    config: Mutex<Config>,
}

impl Reload {
    pub(super) fn new(config: &Config, log: Log) -> Self {
        Self { log, tuners: Mutex::default(), config: Mutex::new(config.clone()) }
    }

    /// This relay is about to work. What was changed since the start is handed to it.
    pub(super) fn opened(&self, source: &str, tuner: Tuner) {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_source) = config.source.get(source) {
            tuner.tune(&config.settings(of_source));
        }
        self.tuners.lock().unwrap_or_else(PoisonError::into_inner).insert(source.to_owned(), tuner);
    }

    /// Waits for signals until it is dropped.
    pub(super) async fn on_hangup(&self, file: &Path) -> Result<std::convert::Infallible, Failure> {
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            if hangup.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            match load(file) {
                Ok(wanted) => self.apply(&wanted),
                Err(failure) => tracing::error!(%failure, "SIGHUP: nothing was changed"),
            }
        }
    }

    fn apply(&self, wanted: &Config) {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut applied, mut not_applied) = (Vec::new(), Vec::new());
        for change in changes(&config, wanted) {
            let by_variable = change.key == "relay.log" && self.log.is_fixed();
            match change.needs_restart {
                Some(why) => not_applied.push(format!("{} ({why})", change.key)),
                None if by_variable => not_applied.push("relay.log (RUST_LOG is over it)".to_owned()),
                None => applied.push(change.key),
            }
        }
        *config = taken_over(&config, wanted);
        if !self.log.is_fixed()
            && let Err(error) = self.log.change(&config.relay.log)
        {
            tracing::error!(%error, "the log stays as it is");
        }
        for (source, tuner) in &*self.tuners.lock().unwrap_or_else(PoisonError::into_inner) {
            tuner.tune(&config.settings(&config.source[source]));
        }
        tracing::info!(applied = applied.join(", "), "SIGHUP: the configuration was read again");
        if !not_applied.is_empty() {
            tracing::warn!(not_applied = not_applied.join(", "), "SIGHUP: these need a restart");
        }
    }
}

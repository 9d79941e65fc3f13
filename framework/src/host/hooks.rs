//! Start and stop hooks: in order, undone in reverse order.

use std::{future::Future, panic::AssertUnwindSafe};

use futures::FutureExt as _;

use super::{Action, HostError};
use crate::{
    error::{Error, Result, panic_text},
    limits,
};

pub(super) struct Hook {
    pub(super) name: String,
    start: Action,
    stop: Action,
}

/// The stop half of a hook whose start half ran.
pub(super) struct Started {
    name: String,
    stop: Action,
}

impl Hook {
    pub(super) fn new<S, E>(
        name: String,
        start: impl FnOnce() -> S + Send + 'static,
        stop: impl FnOnce() -> E + Send + 'static,
    ) -> Self
    where
        S: Future<Output = Result<()>> + Send + 'static,
        E: Future<Output = Result<()>> + Send + 'static,
    {
        Self { name, start: Box::new(|| start().boxed()), stop: Box::new(|| stop().boxed()) }
    }
}

/// Runs the start halves. When one fails, those before it are undone.
pub(super) async fn start(hooks: Vec<Hook>) -> Result<Vec<Started>, HostError> {
    let mut started = Vec::with_capacity(hooks.len());
    for Hook { name, start, stop } in hooks {
        if let Err(cause) = bounded(start).await {
            if let Err(error) = self::stop(started).await {
                tracing::error!(%error, "undoing the start hooks");
            }
            return Err(HostError::Hook { hook: name, when: "start", cause });
        }
        started.push(Started { name, stop });
    }
    Ok(started)
}

/// Runs all stop halves, last started first, and returns the first error; later ones are logged.
pub(super) async fn stop(started: Vec<Started>) -> Result<(), HostError> {
    let mut result = Ok(());
    for Started { name, stop } in started.into_iter().rev() {
        let Err(cause) = bounded(stop).await else { continue };
        let error = HostError::Hook { hook: name, when: "stop", cause };
        match &result {
            Ok(()) => result = Err(error),
            Err(_) => tracing::error!(%error, "stopping the host"),
        }
    }
    result
}

async fn bounded(action: Action) -> Result<()> {
    let running = AssertUnwindSafe(async { action().await }).catch_unwind();
    match tokio::time::timeout(limits::HOOK_WAIT, running).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(Error::new(format!("it panicked: {}", panic_text(panic.as_ref())))),
        Err(_) => Err(Error::new(format!("it did not end within {:?}", limits::HOOK_WAIT))),
    }
}

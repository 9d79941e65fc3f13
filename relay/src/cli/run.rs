//! `barid-relay run`

use std::{path::Path, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{Failure, load};
use crate::{config::Config, lane::backoff::Backoff, relay::Relay, setup};

pub(super) async fn run(file: &Path) -> Result<(), Failure> {
    let config = load(file)?;
    crate::cli::check::log_to_stderr();
    let settings = config.to_string().replace("\n\n", "\n").replace('\n', "; ");
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %settings, "starting");
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;
    let Some(relays) = relays(&config, &stop).await? else { return Ok(()) };
    let mut running = JoinSet::new();
    for relay in relays {
        running.spawn(relay.run_until(stop.clone().cancelled_owned()));
    }
    // The first that fails takes the others with it, each with its own clean stop.
    let mut first = None;
    while let Some(ended) = running.join_next().await {
        let failed = match ended {
            Ok(Ok(stats)) => {
                tracing::info!(?stats, "stopped");
                continue;
            }
            Ok(Err(error)) => Failure::Relay(error),
            Err(panicked) => Failure::Died(panicked),
        };
        stop.cancel();
        first.get_or_insert(failed);
    }
    first.map_or(Ok(()), Err)
}

/// Everything opened; what may pass is waited out. `None` when told to stop meanwhile.
async fn relays(config: &Config, stop: &CancellationToken) -> Result<Option<Vec<Relay>>, Failure> {
    let mut backoff =
        Backoff::new(Duration::from_millis(100), Duration::from_secs(5), u64::from(std::process::id()));
    let mut attempts = 0;
    loop {
        let opened = tokio::select! {
            opened = setup::relays(config) => opened,
            () = stop.cancelled() => return Ok(None),
        };
        match opened {
            Ok(relays) => return Ok(Some(relays)),
            Err(error) if !error.is_transient() => return Err(error.into()),
            Err(error) => tracing::warn!("{error}; trying again"),
        }
        attempts += 1;
        tokio::select! {
            () = tokio::time::sleep(backoff.delay(attempts)) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

/// The first SIGTERM or SIGINT stops cleanly, the second at once.
fn stop_on_signals(stop: CancellationToken) -> Result<(), Failure> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if again {
                tracing::warn!("second signal: stopping at once; rows in flight will be published again");
                std::process::exit(130);
            }
            tracing::info!("stopping: waiting for the answers of what is in flight");
            stop.cancel();
        }
    });
    Ok(())
}

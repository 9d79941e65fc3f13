//! `barid-relay run`

use std::{path::Path, sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Failure, load, log::Log, reload::Reload};
use crate::{
    admin::{
        Admin,
        board::{Board, Phase},
    },
    config::Config,
    lane::backoff::Backoff,
    relay::Relay,
    setup::Setup,
};

/// Works on every source until all have ended. One that fails does not stop the others.
pub(super) async fn run(file: &Path) -> Result<(), Failure> {
    let config = load(file)?;
    let reload = Reload::new(&config, Log::start(&config.relay.log));
    let settings = config.to_string().replace("\n\n", "\n").replace('\n', "; ");
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %settings, "starting");
    if let Some((what, remedy)) = crate::config::exposure(file, &config) {
        tracing::warn!("{what}; {remedy}");
    }
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;
    let board = Arc::new(Board::new(&config));
    let administered = administer(&config, &board).await?;
    let (setup, others) = (&Setup::new(&config), config.source.len() - 1);
    let (stop, board, reload) = (&stop, &*board, &reload);
    let working = config.source.keys().map(async |name| {
        let worked = work(name, setup, (board, reload), stop).await;
        board.ended(name, if worked.is_ok() { Phase::Stopped } else { Phase::Failed });
        worked.inspect_err(|failure| {
            tracing::error!(source = name, %failure, others, "this source has ended; the others go on");
        })
    });
    let ended = tokio::select! {
        ended = join_all(working) => ended,
        failed = reload.on_hangup(file) => match failed? {},
    };
    // Last: it tells how the sources end.
    drop(administered);
    let failures: Vec<Failure> = ended.into_iter().filter_map(Result::err).collect();
    Failure::of_all(failures, config.source.len())
}

/// Starts the admin server when the configuration has one; it ends with what is returned.
async fn administer(config: &Config, board: &Arc<Board>) -> Result<Option<DropGuard>, Failure> {
    let Some(settings) = &config.admin else { return Ok(None) };
    let admin = Admin::bind(settings, board.clone()).await?;
    if let Some(address) = admin.address() {
        tracing::info!(%address, "listening for /livez, /readyz, /metrics and /api");
    }
    let over = CancellationToken::new();
    tokio::spawn(admin.run(over.clone()));
    Ok(Some(over.drop_guard()))
}

/// Works on one source: opens what it needs, waiting out what may pass, and relays until told to stop.
async fn work(
    name: &str,
    setup: &Setup<'_>,
    (board, reload): (&Board, &Reload),
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let Some(relay) = open(name, setup, stop).await? else { return Ok(()) };
    board.opened(name, &relay);
    reload.opened(name, relay.tuner());
    // A task of its own, so that sources use all processors.
    let running = tokio::spawn(relay.run_until(stop.clone().cancelled_owned()));
    let stats = running.await.map_err(|_| Failure::Died(name.to_owned()))??;
    tracing::info!(source = name, ?stats, "stopped");
    Ok(())
}

/// `None` when told to stop meanwhile.
async fn open(name: &str, setup: &Setup<'_>, stop: &CancellationToken) -> Result<Option<Relay>, Failure> {
    let mut backoff =
        Backoff::new(Duration::from_millis(100), Duration::from_secs(5), u64::from(std::process::id()));
    let mut attempts = 0;
    loop {
        let opened = tokio::select! {
            opened = setup.relay(name) => opened,
            () = stop.cancelled() => return Ok(None),
        };
        match opened {
            Ok(relay) => return Ok(Some(relay)),
            Err(error) if !error.is_transient() => return Err(error.into()),
            Err(error) => tracing::warn!(source = name, "{error}; trying again"),
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

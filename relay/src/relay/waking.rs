//! What rings the relay's doorbell while it runs: datagrams of other processes, and the database itself.

use std::{convert::Infallible, sync::Arc};

use barid::Doorbell;
use tokio::{task::JoinSet, time::sleep};

use super::Relay;
use crate::{lane::backoff::Backoff, source::Source, waking::Listener};

/// Listens for as long as it is polled; dropped, it ends what it started. It never ends by itself: without it the relay polls.
pub(super) async fn wake(relay: &Relay) -> Infallible {
    let mut tasks = JoinSet::new();
    if let Some(address) = &relay.doorbell_at {
        let source = relay.source.name().to_owned();
        tasks.spawn(Listener::run(address.clone(), source, relay.doorbell.clone()));
    }
    tasks.spawn(listen(relay.source.clone(), relay.doorbell.clone(), relay.settings.backoff()));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(source = relay.source.name(), %error, "what listened has died; polling goes on");
        }
    }
    std::future::pending().await
}

/// Listens to the database, connecting again when that is lost.
async fn listen(source: Arc<dyn Source>, doorbell: Doorbell, mut backoff: Backoff) {
    let mut attempts = 0;
    loop {
        let began = std::time::Instant::now();
        let error = source.listen(&doorbell).await;
        // What was committed in between was not heard.
        doorbell.ring();
        attempts = if began.elapsed() > barid::limits::CALL_TIMEOUT { 1 } else { attempts + 1 };
        tracing::warn!(source = source.name(), %error, "notifications are not heard; polling goes on");
        sleep(backoff.delay(attempts)).await;
    }
}

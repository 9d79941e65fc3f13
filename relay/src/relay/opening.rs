//! Getting everything ready for a session, waiting out what may pass.

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Relay, RelayError, Session, complain::Complaints, deleting::Deleting, reading::Reading, watching::Watch,
};
use crate::{
    lane::{Lanes, Window},
    sink::OpenSink,
    source::{HELD_KEYS_MAX, SourceError, Writer},
};

/// Claims the source, loads the keys that parked rows hold and opens the sinks. `None` when told to stop meanwhile.
pub(super) async fn open<'a>(
    relay: &'a Relay,
    stop: &CancellationToken,
) -> Result<Option<Session<'a>>, RelayError> {
    let mut backoff = relay.settings.backoff();
    let (mut attempts, mut said) = (0, String::new());
    loop {
        let opened = tokio::select! {
            opened = try_open(relay) => opened,
            () = stop.cancelled() => return Ok(None),
        };
        let error = match opened {
            Ok(session) => return Ok(Some(session)),
            Err(error) if !error.is_transient() => return Err(error),
            Err(error) => error.to_string(),
        };
        if error != said {
            tracing::warn!(source = relay.source.name(), "{error}");
            said = error;
        }
        attempts += 1;
        tokio::select! {
            () = sleep(backoff.delay(attempts)) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

async fn try_open(relay: &Relay) -> Result<Session<'_>, RelayError> {
    let (claim, reader) = relay.source.reader().await?;
    let mut writer = relay.source.writer().await?;
    let windows: Vec<Window> = relay.sinks.iter().map(|sink| sink.window).collect();
    // After the claim: nobody else can park anything now. And before the first read: what is put back keeps its position.
    let released = writer.released().await?;
    let mut stats = *relay.stats.borrow();
    if released.parked {
        let rows = writer.put_back().await?;
        if rows > 0 {
            tracing::info!(source = relay.source.name(), rows, "put released messages back into the outbox");
        }
        stats.released += rows;
        relay.stats.send_replace(stats);
    }
    let mut lanes =
        Lanes::new(&windows, relay.settings.backoff()).held_max(HELD_KEYS_MAX).counting_from(stats);
    hold(&mut lanes, &mut *writer, relay.source.name()).await?;
    let mut sinks: Vec<OpenSink> = Vec::with_capacity(relay.sinks.len());
    for sink in &relay.sinks {
        let cause = |cause| RelayError::Sink { sink: sink.name.clone(), cause };
        sinks.push(sink.open().await.map_err(cause)?);
    }
    let held = lanes.held();
    tracing::info!(source = relay.source.name(), epoch = claim.epoch, held_keys = held, "claimed the outbox");
    let source = relay.source.clone();
    Ok(Session {
        reading: Reading::start(source.clone(), claim, reader, &relay.settings, relay.doorbell.clone()),
        deleting: Deleting::start(source, writer, &relay.settings),
        relay,
        lanes,
        routes: relay.routes.clone(),
        sinks,
        unretired_since: None,
        watch: Watch::new(released),
        complaints: Complaints::default(),
    })
}

/// Holds the keys that have a poison row. Beyond the bound they are only counted.
async fn hold(lanes: &mut Lanes, writer: &mut dyn Writer, source_name: &str) -> Result<(), SourceError> {
    let (mut after, mut held) = (None, 0);
    loop {
        let page = writer.held_keys(after).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.row);
        if held > HELD_KEYS_MAX {
            held += page.len();
            continue;
        }
        for key in &page {
            lanes.hold(&key.aggregatetype, &key.aggregateid, key.row.seq);
        }
        held = lanes.held();
    }
    if held > HELD_KEYS_MAX {
        return Err(SourceError::TooManyHeld { source_name: source_name.to_owned(), held });
    }
    Ok(())
}

impl RelayError {
    /// Whether trying again can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Source(error) => SourceError::is_transient(error),
            Self::Sink { cause, .. } => cause.is_transient(),
            Self::TaskDied { .. } | Self::Halted { .. } => false,
        }
    }
}

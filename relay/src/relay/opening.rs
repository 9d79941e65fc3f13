//! Getting everything ready for a session, waiting out what may pass.

use std::time::Instant;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Relay, RelayError, Session, complain::Complaints, deleting::Deleting, horizon::Horizon, keeping::Keeping,
    reading, reading::Reading, watching::Watch,
};
use crate::{
    lane::{Lanes, Window},
    lease::{Candidate, contender::Terms, keeper::Lease},
    metrics::meter::Owning,
    sink::OpenSink,
    source::{HELD_KEYS_MAX, SourceError, Writer},
};

/// Takes the lease of the source, loads the keys that parked rows hold and opens the sinks. `None` when told to stop meanwhile.
pub(super) async fn open<'a>(
    relay: &'a Relay,
    candidate: &Candidate,
    stop: &CancellationToken,
) -> Result<Option<Session<'a>>, RelayError> {
    let mut backoff = relay.settings.backoff();
    let terms = Terms::new(relay.settings.lease);
    let (mut attempts, mut said) = (0, String::new());
    loop {
        let lease = Lease::acquire(relay.source.clone(), candidate.clone(), terms, stop).await?;
        let Some(lease) = lease else { return Ok(None) };
        let owning = Owning::new(relay.meter.clone(), lease.epoch());
        let opened = tokio::select! {
            opened = parts(relay, &lease) => Some(opened),
            () = stop.cancelled() => None,
        };
        let error = match opened {
            Some(Ok(parts)) => return Ok(Some(parts.session(relay, lease, owning))),
            Some(Err(error)) => error,
            None => {
                drop(owning);
                lease.release().await;
                return Ok(None);
            }
        };
        // Another relay may be luckier.
        drop(owning);
        lease.release().await;
        if !error.is_transient() && !error.is_fenced() {
            return Err(error);
        }
        let error = error.to_string();
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

/// What a session needs beside its lease.
struct Parts {
    lanes: Lanes,
    sinks: Vec<OpenSink>,
    reading: Reading,
    deleting: Deleting,
    watch: Watch,
}

async fn parts(relay: &Relay, lease: &Lease) -> Result<Parts, RelayError> {
    let (source, epoch) = (&relay.source, lease.epoch());
    let reader = reading::open(&**source, epoch).await?;
    let mut writer = source.writer().await?;
    let windows: Vec<Window> = relay.sinks.iter().map(|sink| sink.window).collect();
    // After the lease was taken: nobody else can park anything now. And before the first read: what is put back keeps its
    // position.
    let released = writer.released().await?;
    let mut stats = *relay.stats.borrow();
    if released.parked {
        let rows = writer.put_back(epoch).await?;
        if rows > 0 {
            tracing::info!(source = source.name(), rows, "put released messages back into the outbox");
        }
        stats.released += rows;
        relay.stats.send_replace(stats);
    }
    let mut lanes = Lanes::new(&windows, relay.settings.backoff())
        .held_max(HELD_KEYS_MAX)
        .share(relay.settings.share())
        .counting_from(stats);
    hold(&mut lanes, &mut *writer, source.name()).await?;
    let mut sinks: Vec<OpenSink> = Vec::with_capacity(relay.sinks.len());
    for sink in &relay.sinks {
        let cause = |cause| RelayError::Sink { sink: sink.name.clone(), cause };
        sinks.push(sink.open().await.map_err(cause)?);
    }
    let held = lanes.held();
    tracing::info!(source = source.name(), %epoch, held_keys = held, "claimed the outbox");
    let doorbell = relay.doorbell.clone();
    Ok(Parts {
        reading: Reading::start(source.clone(), epoch, reader, &relay.settings, doorbell),
        deleting: Deleting::start(source.clone(), epoch, writer, &relay.settings),
        watch: Watch::new(released),
        lanes,
        sinks,
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

impl Parts {
    fn session(self, relay: &Relay, lease: Lease, owning: Owning) -> Session<'_> {
        let Self { lanes, sinks, reading, deleting, watch } = self;
        Session {
            relay,
            deadline: lease.deadline(),
            lapses: lease.deadline(),
            lapsed: false,
            lease,
            fenced: false,
            lanes,
            routes: relay.routes.clone(),
            sinks,
            reading,
            deleting,
            unretired_since: None,
            watch,
            horizon: Horizon::new(relay.settings.old_transaction, Instant::now()),
            keeping: Keeping::new(relay.settings.after, Instant::now()),
            complaints: Complaints::default(),
            _owning: owning,
        }
    }
}

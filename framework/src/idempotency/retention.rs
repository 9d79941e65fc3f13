//! Removes what is too old to matter: records, results, marks and attempts of messages that are long gone.
//!
//! Runs beside the worker of every bus with idempotency or results; several instances may do it at once, each step finds what
//! is left. A table is walked along its primary key in steps of a bounded number of rows, round and round. Ids that are
//! UUIDv7 begin with a time, so the walk leaves out those of the time that is kept: with nothing but UUIDv7 it only ever
//! meets rows that go.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::first_id;
use crate::{
    background::Background,
    bus::BusCore,
    error::Result,
    limits,
    store::idempotency::{RecordStore, Span, Table},
};

/// A message may come from a clock that is this far ahead.
const CLOCKS_DIFFER_MS: i64 = 24 * 60 * 60 * 1000;

pub(crate) struct Retention {
    store: Arc<dyn RecordStore>,
    keep_for: Duration,
}

impl Retention {
    pub(crate) fn new(store: Arc<dyn RecordStore>, keep_for: Duration) -> Self {
        Self { store, keep_for }
    }

    fn keep_ms(&self) -> i64 {
        i64::try_from(self.keep_for.as_millis()).unwrap_or(i64::MAX)
    }

    /// Looks after the partitions; what cannot be done now is tried again and only told.
    async fn partitions(&self, bus: &str) -> Result<()> {
        let done = self.store.partitions(self.keep_ms()).await?;
        for problem in done.problems {
            tracing::warn!(bus, "{problem}");
        }
        if !done.made.is_empty() || !done.dropped.is_empty() {
            tracing::info!(bus, made = ?done.made, dropped = ?done.dropped, "partitions of idempotency");
        }
        Ok(())
    }

    /// A bounded number of steps. `true`: there may be more to remove.
    async fn steps(&self, bus: &str, walks: &mut HashMap<Table, Walk>) -> Result<bool> {
        let kept = Kept::at(self.store.now_ms().await?, self.keep_ms());
        let mut more = false;
        for table in Table::ALL {
            let walk = walks.entry(table).or_default();
            let (mut removed, mut round) = (0, false);
            for _ in 0..limits::PURGE_STATEMENTS_MAX {
                let span = walk.next(table.by_time().then_some(kept));
                let (end, gone) = self.store.purge(table, span, self.keep_ms()).await?;
                removed += gone;
                round = walk.went(span, end);
                if round {
                    break;
                }
            }
            more |= !round;
            if removed > 0 {
                tracing::debug!(bus, ?table, removed, "removed what is older than the time that it is kept");
            }
        }
        Ok(more)
    }
}

#[async_trait]
impl Background for Retention {
    fn name(&self) -> &'static str {
        "retention"
    }

    async fn run(&self, core: &Arc<BusCore>, stop: &CancellationToken) -> Result<()> {
        let mut walks = HashMap::new();
        loop {
            let work = async {
                self.partitions(&core.name).await?;
                self.steps(&core.name, &mut walks).await
            };
            let more = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                more = work => more?,
            };
            let pause = if more { limits::PURGE_PAUSE } else { limits::PURGE_PAUSE_MAX };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// The UUIDv7 of the time that is kept.
#[derive(Clone, Copy, Debug)]
struct Kept {
    from: Uuid,
    to: Uuid,
}

impl Kept {
    fn at(now_ms: i64, keep_ms: i64) -> Self {
        Self { from: first_id(now_ms - keep_ms), to: first_id(now_ms + CLOCKS_DIFFER_MS) }
    }
}

/// How far the walk along one table has come.
#[derive(Debug, Default)]
struct Walk(Uuid);

impl Walk {
    /// What to look at next.
    fn next(&self, kept: Option<Kept>) -> Span {
        match kept {
            Some(kept) if self.0 < kept.from => Span { after: self.0, until: kept.from },
            Some(kept) => Span { after: self.0.max(kept.to), until: Uuid::max() },
            None => Span { after: self.0, until: Uuid::max() },
        }
    }

    /// Takes in where a step ended, unless at the end of its span. `true`: once around.
    fn went(&mut self, span: Span, end: Option<Uuid>) -> bool {
        let round = end.is_none() && span.until == Uuid::max();
        self.0 = if round { Uuid::nil() } else { end.unwrap_or(span.until) };
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_leaves_out_what_is_kept_and_goes_round() {
        let kept = Kept::at(1_800_000_000_000, 1_000);
        let mut walk = Walk::default();
        let span = walk.next(Some(kept));
        assert_eq!(span, Span { after: Uuid::nil(), until: first_id(1_799_999_999_000) });
        let middle = first_id(1_500_000_000_000);
        assert!(!walk.went(span, Some(middle)));
        let span = walk.next(Some(kept));
        assert_eq!(span, Span { after: middle, until: kept.from });
        assert!(!walk.went(span, None));
        let span = walk.next(Some(kept));
        assert_eq!(span, Span { after: kept.to, until: Uuid::max() });
        assert!(walk.went(span, None));
        assert_eq!(walk.next(None), Span { after: Uuid::nil(), until: Uuid::max() });
    }
}

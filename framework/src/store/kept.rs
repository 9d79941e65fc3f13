//! Connections that stay with the unit of work from one message to the next.
//!
//! A pool tests a connection when it is given back and again when it is taken: two round trips a message that the network
//! pays for nothing, because the opening text would find a dead connection too. So a few connections are kept between
//! messages, for a moment, and only while the pool has others to give.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{Pool, pool::PoolConnection};

use super::backend::{Backend, Prepared};
use crate::error::{Error, Result};

/// How long a connection is kept unused before it goes back to the pool, while the pool has others to give.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// How often that is looked at: what a pool that has run short waits for an unused connection at most.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(50);

pub(crate) struct Kept<DB: Backend> {
    pool: Pool<DB>,
    idle: Mutex<Idle<DB>>,
    /// Whether the server cannot prepare what makes the two texts cheap (MySQL).
    cannot_prepare: AtomicBool,
}

struct Idle<DB: Backend> {
    connections: Vec<(PoolConnection<DB>, Instant)>,
    /// Whether the task that returns unused connections runs.
    reaping: bool,
}

impl<DB: Backend> Kept<DB> {
    pub(crate) fn new(pool: Pool<DB>) -> Arc<Self> {
        Arc::new(Self {
            pool,
            idle: Mutex::new(Idle { connections: Vec::new(), reaping: false }),
            cannot_prepare: AtomicBool::new(false),
        })
    }

    pub(crate) fn pool(&self) -> &Pool<DB> {
        &self.pool
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle<DB>> {
        // The lock only guards a vector; a panic while it was held cannot have broken it.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of any session of the pool.
    pub(crate) fn prepared(&self) -> Prepared {
        if self.cannot_prepare.load(Ordering::Relaxed) { Prepared::Impossible } else { Prepared::Unknown }
    }

    /// From now on nobody tries: on such a server each try would cost a round trip.
    pub(crate) fn cannot_prepare(&self) {
        self.cannot_prepare.store(true, Ordering::Relaxed);
    }

    /// A kept connection, which nobody has tested since it was used.
    pub(crate) fn pop(&self) -> Option<PoolConnection<DB>> {
        self.idle().connections.pop().map(|(connection, _)| connection)
    }

    /// A kept connection (`true`), or a tested one from the pool.
    pub(crate) async fn take(&self) -> Result<(PoolConnection<DB>, bool)> {
        match self.pop() {
            Some(connection) => Ok((connection, true)),
            // Boxed: sqlx's future is large, and this one is part of every message's.
            None => Ok((Box::pin(self.acquire()).await?, false)),
        }
    }

    /// A tested connection from the pool.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<DB>> {
        self.pool.acquire().await.map_err(|error| Error::from(error).context("no database connection"))
    }

    /// Keeps a connection on which nothing is open, or gives it back when the pool could run short of it.
    pub(crate) fn put(self: &Arc<Self>, connection: PoolConnection<DB>) {
        if !self.pool_has_others() {
            return; // dropped, which gives it back
        }
        let mut idle = self.idle();
        idle.connections.push((connection, Instant::now()));
        if !std::mem::replace(&mut idle.reaping, true) {
            // Ends by itself as soon as nothing is kept; nothing depends on how it ends.
            tokio::spawn(reap(Arc::clone(self)));
        }
    }

    /// Whether somebody who asks the pool gets a connection without one of ours.
    fn pool_has_others(&self) -> bool {
        let has_room = || self.pool.size() < self.pool.options().get_max_connections();
        !self.pool.is_closed() && (self.pool.num_idle() > 0 || has_room())
    }
}

async fn reap<DB: Backend>(kept: Arc<Kept<DB>>) {
    loop {
        tokio::time::sleep(LOOKED_AT_EVERY).await;
        let keep_for = if kept.pool_has_others() { KEPT_FOR } else { Duration::ZERO };
        let mut idle = kept.idle();
        // Used last in, first out: those that are unused the longest are at the front.
        let unused = idle.connections.iter().take_while(|(_, since)| since.elapsed() >= keep_for).count();
        // Dropped, which gives them back.
        idle.connections.drain(..unused);
        if idle.connections.is_empty() {
            idle.reaping = false;
            return;
        }
    }
}

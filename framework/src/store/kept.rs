//! Connections that stay with the unit of work from one message to the next.
//!
//! A pool tests a connection when it is given back and again when it is taken: two round trips a message that the network
//! pays for nothing, because the opening text would find a dead connection too. So a few connections are kept between
//! messages, for a moment, and only while the pool has others to give.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Pool, pool::PoolConnection};

use super::backend::Backend;
use crate::error::{Error, Result};

/// How long a connection is kept unused before it goes back to the pool.
const KEPT_FOR: Duration = Duration::from_millis(50);

pub(crate) struct Kept<DB: Backend> {
    pool: Pool<DB>,
    idle: Mutex<Idle<DB>>,
}

struct Idle<DB: Backend> {
    connections: Vec<(PoolConnection<DB>, Instant)>,
    /// Whether the task that returns unused connections runs.
    reaping: bool,
}

impl<DB: Backend> Kept<DB> {
    pub(crate) fn new(pool: Pool<DB>) -> Arc<Self> {
        Arc::new(Self { pool, idle: Mutex::new(Idle { connections: Vec::new(), reaping: false }) })
    }

    pub(crate) fn pool(&self) -> &Pool<DB> {
        &self.pool
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle<DB>> {
        // The lock only guards a vector; a panic while it was held cannot have broken it.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kept connection (`true`), or a tested one from the pool.
    pub(crate) async fn take(&self) -> Result<(PoolConnection<DB>, bool)> {
        let kept = self.idle().connections.pop();
        match kept {
            Some((connection, _)) => Ok((connection, true)),
            None => Ok((self.acquire().await?, false)),
        }
    }

    /// A tested connection from the pool.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<DB>> {
        self.pool.acquire().await.map_err(|error| Error::from(error).context("no database connection"))
    }

    /// Keeps a connection on which nothing is open, or gives it back when the pool could run short of it.
    pub(crate) fn put(self: &Arc<Self>, connection: PoolConnection<DB>) {
        let spare = self.pool.num_idle() > 0 || self.pool.size() < self.pool.options().get_max_connections();
        if !spare || self.pool.is_closed() {
            return; // dropped, which gives it back
        }
        let mut idle = self.idle();
        idle.connections.push((connection, Instant::now()));
        if !std::mem::replace(&mut idle.reaping, true) {
            // Ends by itself as soon as nothing is kept; nothing depends on how it ends.
            tokio::spawn(reap(Arc::clone(self)));
        }
    }
}

async fn reap<DB: Backend>(kept: Arc<Kept<DB>>) {
    loop {
        tokio::time::sleep(KEPT_FOR).await;
        let mut idle = kept.idle();
        let mut unused = Vec::new();
        while idle.connections.first().is_some_and(|(_, since)| since.elapsed() >= KEPT_FOR) {
            unused.push(idle.connections.remove(0));
        }
        if idle.connections.is_empty() {
            idle.reaping = false;
            return;
        }
    }
}

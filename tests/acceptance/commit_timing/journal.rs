//! A SQLite file with a rollback journal, whose COMMIT can be made to fail half-way.
//!
//! SQLite commits by deleting the journal, after the new pages are in the file. A folder in the journal's place cannot be
//! deleted: COMMIT answers `SQLITE_IOERR_DELETE`, and nobody can read the file until the folder is gone. What then counts is
//! what stands in its place: nothing, and the transaction is committed; the journal, and the next reader rolls it back.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::store::AnyPool;
use sqlx::{
    ConnectOptions, Executor, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

/// The file and its journal.
pub(crate) struct Journal {
    database: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether the folder is there, and whether the transaction is to be committed when it goes.
    blocked: Option<bool>,
    fired: usize,
}

impl Journal {
    pub(crate) fn of(database: PathBuf) -> Arc<Self> {
        Arc::new(Self { database, state: Mutex::default() })
    }

    /// A pool that makes the file readable again before it hands out a connection.
    pub(crate) async fn pool(self: &Arc<Self>) -> AnyPool {
        let (before, after) = (Arc::clone(self), Arc::clone(self));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .min_connections(3)
            .before_acquire(move |_, _| {
                before.unblock();
                Box::pin(async { Ok(true) })
            })
            .after_connect(move |_, _| {
                after.unblock();
                Box::pin(async { Ok(()) })
            })
            .connect_with(self.options());
        AnyPool::Sqlite(pool.await.unwrap())
    }

    /// Puts a folder in the place of the journal of the transaction that is open now.
    pub(crate) fn block(&self, committed: bool) {
        let mut state = self.state.lock().unwrap();
        assert_eq!(state.blocked, None);
        std::fs::rename(self.path("-journal"), self.path("-kept")).unwrap();
        std::fs::create_dir(self.path("-journal")).unwrap();
        state.blocked = Some(committed);
    }

    fn unblock(&self) {
        let mut state = self.state.lock().unwrap();
        let Some(committed) = state.blocked.take() else { return };
        std::fs::remove_dir(self.path("-journal")).unwrap();
        if committed {
            std::fs::remove_file(self.path("-kept")).unwrap();
        } else {
            std::fs::rename(self.path("-kept"), self.path("-journal")).unwrap();
        }
        state.fired += 1;
    }

    pub(crate) fn fired(&self) -> usize {
        self.state.lock().unwrap().fired
    }

    /// A connection in the middle of reading: nobody can write the file's pages until it has ended.
    pub(crate) async fn reader(&self) -> SqliteConnection {
        let mut reader = self.options().connect().await.unwrap();
        reader.execute("BEGIN").await.unwrap();
        reader.execute("SELECT count(*) FROM orders").await.unwrap();
        reader
    }

    fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.database)
            .create_if_missing(true)
            .foreign_keys(true)
            .busy_timeout(Duration::from_millis(50))
    }

    fn path(&self, suffix: &str) -> PathBuf {
        let mut path = self.database.clone().into_os_string();
        path.push(suffix);
        path.into()
    }
}

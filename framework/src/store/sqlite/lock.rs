//! One fair in-process lock for each SQLite file.
//!
//! SQLite has one writer at a time, and who comes second polls with a growing pause until its busy timeout: under load some
//! writers starve. Everybody in Barid who writes takes this lock first and waits in order of arrival; the busy timeout is
//! left for other processes.
//!
//! The order is always: this lock, then a connection of the pool. Who waits for the lock while it holds a connection can
//! stop a small pool for good.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use sqlx::SqlitePool;

/// The lock of one file. tokio's mutex hands itself over in order of arrival.
pub type FileLock = Arc<tokio::sync::Mutex<()>>;

static LOCKS: LazyLock<Mutex<HashMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>> = LazyLock::new(Mutex::default);

/// The lock of the database that `pool` is open on: the same for every pool of this process on the same file.
///
/// An in-memory database has a name of its own for each set of connect options, and so a lock of its own.
#[must_use]
pub fn file_lock(pool: &SqlitePool) -> FileLock {
    lock_of(&canonical(pool.connect_options().get_filename()))
}

fn lock_of(file: &Path) -> FileLock {
    let mut locks = LOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(lock) = locks.get(file).and_then(Weak::upgrade) {
        return lock;
    }
    locks.retain(|_, lock| lock.strong_count() > 0);
    let lock = FileLock::default();
    locks.insert(file.to_owned(), Arc::downgrade(&lock));
    lock
}

/// The file's real name. The file may not exist yet, so it is its folder that is resolved.
fn canonical(file: &Path) -> PathBuf {
    if let Ok(real) = file.canonicalize() {
        return real;
    }
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match (folder.canonicalize(), file.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_one_lock_however_it_is_spelled() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.db");
        let detour = folder.path().join(".").join("a.db");
        let before = lock_of(&canonical(&file));
        std::fs::write(&file, "").unwrap();
        let after = lock_of(&canonical(&detour));
        assert!(Arc::ptr_eq(&before, &after));
        assert!(!Arc::ptr_eq(&before, &lock_of(&canonical(&folder.path().join("b.db")))));
    }
}

//! Wakes the consumers of this process when a publisher of this process has committed.
//!
//! Consumers poll and need no bell; it only makes them quick. A ring is never lost: it is a version number, and who was not
//! listening sees that it has changed.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use tokio::sync::watch;

/// The bell of one database.
pub(super) type Bell = Arc<watch::Sender<()>>;

static BELLS: LazyLock<Mutex<HashMap<String, Weak<watch::Sender<()>>>>> = LazyLock::new(Mutex::default);

/// The bell of the database at `place`: one for all its queues.
pub(super) fn bell(place: &str) -> Bell {
    let mut bells = BELLS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bell) = bells.get(place).and_then(Weak::upgrade) {
        return bell;
    }
    bells.retain(|_, bell| bell.strong_count() > 0);
    let bell = Arc::new(watch::Sender::new(()));
    bells.insert(place.to_owned(), Arc::downgrade(&bell));
    bell
}

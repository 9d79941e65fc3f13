//! Which topics a consumer group reads beyond those of its inbox, decided while it runs.
//!
//! Kafka keeps no subscriptions: they are the members' own. So they live here, shared by all clones of a transport, and every
//! reader of the group looks at them before each poll.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::client::locked;
use crate::transport::Inbox;

/// The interests of every group of one transport.
pub(super) type Interests = Arc<Mutex<HashMap<String, Arc<Interest>>>>;

/// What one group changed since its inbox was written down.
#[derive(Debug, Default)]
pub(super) struct Interest {
    version: AtomicU64,
    changes: Mutex<Changes>,
}

#[derive(Debug, Default)]
struct Changes {
    added: BTreeSet<String>,
    removed: BTreeSet<String>,
}

/// The interest of `group`; the same one for every caller.
pub(super) fn of(interests: &Interests, group: &str) -> Arc<Interest> {
    Arc::clone(locked(interests).entry(group.to_owned()).or_default())
}

impl Interest {
    pub(super) fn add(&self, topic: &str) {
        let mut changes = locked(&self.changes);
        changes.removed.remove(topic);
        changes.added.insert(topic.to_owned());
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(super) fn remove(&self, topic: &str) {
        let mut changes = locked(&self.changes);
        changes.added.remove(topic);
        changes.removed.insert(topic.to_owned());
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Grows with each change.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The topics that a consumer of `inbox` reads now. The queue itself is always among them.
    pub(super) fn topics(&self, inbox: &Inbox) -> BTreeSet<String> {
        let changes = locked(&self.changes);
        let kept = inbox.topics.iter().filter(|topic| !changes.removed.contains(*topic));
        std::iter::once(&inbox.queue).chain(kept).chain(&changes.added).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_a_topic_counts() {
        let interests = Interests::default();
        let inbox = Inbox::new("q").topic("a").topic("b");
        let topics = || of(&interests, "q").topics(&inbox).into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(topics(), "a b q");
        of(&interests, "q").add("c");
        of(&interests, "q").remove("a");
        of(&interests, "other").remove("b");
        assert_eq!(topics(), "b c q");
        assert_eq!(of(&interests, "q").version(), 2);
        of(&interests, "q").add("a");
        of(&interests, "q").remove("c");
        of(&interests, "q").remove("q");
        assert_eq!(topics(), "a b q");
    }
}

//! Subscriptions in the memory of one process: for tests, and for buses whose queues are in memory too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::SubscriptionStore;
use crate::error::Result;

/// Subscriptions that end with the process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemorySubscriptions(Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>);

impl MemorySubscriptions {
    /// No subscriptions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
        // Every change is one call; a panic while the lock was held cannot have broken it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SubscriptionStore for MemorySubscriptions {
    async fn subscribers(&self, topic: &str, queues_max: usize) -> Result<Vec<String>> {
        let topics = self.topics();
        Ok(topics.get(topic).into_iter().flatten().take(queues_max).cloned().collect())
    }

    async fn subscribe(&self, topic: &str, queue: &str) -> Result<()> {
        self.topics().entry(topic.to_owned()).or_default().insert(queue.to_owned());
        Ok(())
    }

    async fn unsubscribe(&self, topic: &str, queue: &str) -> Result<()> {
        let mut topics = self.topics();
        if let Some(queues) = topics.get_mut(topic) {
            queues.remove(queue);
            if queues.is_empty() {
                topics.remove(topic);
            }
        }
        Ok(())
    }
}

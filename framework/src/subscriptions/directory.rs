//! A subscription store with a memory: publishing asks it once in a while and not once a message.
//!
//! What was read is believed for [`limits::SUBSCRIPTIONS_AGE_MAX`]; a change through the same directory is seen at once. A store
//! that does not answer fails the publishing: what is older is not believed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{Change, SubscriptionStore};
use crate::{
    error::{Error, Result},
    limits,
};

pub(crate) struct Directory {
    store: Box<dyn SubscriptionStore>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    topics: HashMap<String, (Instant, Arc<[String]>)>,
    /// Grows with each change, so that an answer from before the change is not remembered after it.
    changes: u64,
}

impl Directory {
    pub(super) fn new(store: impl SubscriptionStore) -> Self {
        Self { store: Box::new(store), known: Mutex::default() }
    }

    pub(crate) async fn ready(&self) -> Result<()> {
        bounded(self.store.ready()).await
    }

    /// The queues that subscribed to any of `topics`, each once, those of the first topic first.
    pub(crate) async fn queues(&self, topics: &[String]) -> Result<Vec<String>> {
        let mut queues: Vec<String> = Vec::new();
        for topic in topics {
            for queue in self.subscribers(topic).await?.iter() {
                if !queues.contains(queue) {
                    queues.push(queue.clone());
                }
            }
        }
        Ok(queues)
    }

    /// Subscribes or unsubscribes. Whatever comes of it, the next look is a fresh one.
    pub(crate) async fn change(&self, change: Change, topic: &str, queue: &str) -> Result<()> {
        let changed = match change {
            Change::Subscribe => bounded(self.store.subscribe(topic, queue)).await,
            Change::Unsubscribe => bounded(self.store.unsubscribe(topic, queue)).await,
        };
        let mut known = self.known();
        known.changes += 1;
        known.topics.remove(topic);
        changed.map_err(|error| {
            let did = if change == Change::Subscribe { "subscribing" } else { "unsubscribing" };
            error.context(format!("{did} queue {queue:?}, topic {topic:?}"))
        })
    }

    async fn subscribers(&self, topic: &str) -> Result<Arc<[String]>> {
        let changes = {
            let known = self.known();
            if let Some((since, queues)) = known.topics.get(topic)
                && since.elapsed() < limits::SUBSCRIPTIONS_AGE_MAX
            {
                return Ok(Arc::clone(queues));
            }
            known.changes
        };
        let asked = Instant::now();
        let queues = bounded(self.store.subscribers(topic, limits::SUBSCRIBERS_MAX + 1)).await;
        let queues: Arc<[String]> = queues
            .map_err(|error| error.context(format!("asking who subscribed to topic {topic:?}")))?
            .into();
        if queues.len() > limits::SUBSCRIBERS_MAX {
            return Err(Error::permanent(format!(
                "more than {} queues subscribed to topic {topic:?}: one event cannot be copied to all of them",
                limits::SUBSCRIBERS_MAX
            )));
        }
        self.remember(topic, asked, &queues, changes);
        Ok(queues)
    }

    fn remember(&self, topic: &str, asked: Instant, queues: &Arc<[String]>, changes: u64) {
        let mut known = self.known();
        if known.changes != changes {
            return;
        }
        if known.topics.len() >= limits::SUBSCRIPTION_TOPICS_MAX {
            known.topics.retain(|_, (since, _)| since.elapsed() < limits::SUBSCRIPTIONS_AGE_MAX);
        }
        if known.topics.len() < limits::SUBSCRIPTION_TOPICS_MAX {
            known.topics.insert(topic.to_owned(), (asked, Arc::clone(queues)));
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // It is only a memory: whatever a panic left behind is overwritten by the next answer.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn bounded<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(limits::CALL_TIMEOUT, call).await;
    answer.unwrap_or_else(|_| {
        Err(Error::new(format!("the subscription store did not answer within {:?}", limits::CALL_TIMEOUT)))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::subscriptions::MemorySubscriptions;

    /// Counts how often it is asked.
    #[derive(Clone, Default)]
    struct Counting(MemorySubscriptions, Arc<AtomicUsize>);

    #[async_trait]
    impl SubscriptionStore for Counting {
        async fn subscribers(&self, topic: &str, queues_max: usize) -> Result<Vec<String>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.subscribers(topic, queues_max).await
        }

        async fn subscribe(&self, topic: &str, queue: &str) -> Result<()> {
            self.0.subscribe(topic, queue).await
        }

        async fn unsubscribe(&self, topic: &str, queue: &str) -> Result<()> {
            self.0.unsubscribe(topic, queue).await
        }
    }

    fn topics(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn it_asks_once_and_sees_its_own_changes_at_once() {
        let store = Counting::default();
        let directory = Directory::new(store.clone());
        let (orders, both) = (topics(&["orders"]), topics(&["orders", "audit"]));
        for _ in 0..100 {
            assert!(directory.queues(&orders).await.unwrap().is_empty());
        }
        assert_eq!(store.1.load(Ordering::Relaxed), 1);
        for queue in ["b", "a", "a"] {
            directory.change(Change::Subscribe, "orders", queue).await.unwrap();
        }
        directory.change(Change::Subscribe, "audit", "a").await.unwrap();
        directory.change(Change::Subscribe, "audit", "c").await.unwrap();
        assert_eq!(directory.queues(&both).await.unwrap(), ["a", "b", "c"]);
        directory.change(Change::Unsubscribe, "orders", "b").await.unwrap();
        directory.change(Change::Unsubscribe, "orders", "unknown").await.unwrap();
        assert_eq!(directory.queues(&both).await.unwrap(), ["a", "c"]);
    }

    #[tokio::test]
    async fn another_ones_changes_are_seen_within_the_bound() {
        let store = Counting::default();
        let directory = Directory::new(store.clone());
        let orders = topics(&["orders"]);
        assert!(directory.queues(&orders).await.unwrap().is_empty());
        store.subscribe("orders", "late").await.unwrap();
        let began = Instant::now();
        while directory.queues(&orders).await.unwrap().is_empty() {
            assert!(began.elapsed() < limits::SUBSCRIPTIONS_AGE_MAX * 3, "never seen");
            tokio::time::sleep(limits::SUBSCRIPTIONS_AGE_MAX / 20).await;
        }
        assert_eq!(directory.queues(&orders).await.unwrap(), ["late"]);
    }
}

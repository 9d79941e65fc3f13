//! What a publisher has done beside it: asking the cluster about topics, replacing a producer that broke, closing.
//!
//! One task a publisher. Whatever blocks runs on the blocking threads.
//!
//! It also bounds how long a row may wait for its confirm. librdkafka could do that row by row, but then the rows behind one
//! that timed out in the queue would still be sent, and arrive before it is sent again: they are given up together.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    producer::{Producer as _, PurgeConfig},
    types::RDKafkaErrorCode as Code,
};

use super::{
    client::{Answer, ask_topic, locked},
    held::Held,
    outcome,
    producer::{Client, produce},
    router::Shared,
};
use crate::transport::Outcome;

/// How long purged rows may take to be reported before they are given up as unknown.
const PURGE_WAIT: Duration = Duration::from_secs(1);
/// Between two questions about a topic that the cluster does not know yet.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How often it looks whether a row has waited too long: a tenth of what a row may wait, within these.
const LOOK_BOUNDS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Runs until it is aborted: by closing or dropping the publisher.
pub(super) async fn take_care(shared: Arc<Shared>) {
    let look = (shared.settings.message_timeout / 10).clamp(LOOK_BOUNDS.0, LOOK_BOUNDS.1);
    loop {
        // Elapsed or not: both are reasons to look.
        let _ = tokio::time::timeout(look, shared.flight.care.notified()).await;
        shared.give_up_late();
        while shared.is_broken() || shared.wants_topics() {
            let replaced = !shared.is_broken() || shared.replace().await;
            let answered = !shared.wants_topics() || shared.ask().await;
            if !replaced || !answered {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }
}

impl Shared {
    /// Gives the producer up when a row has been in flight on it for too long: with all that it has, see the module.
    fn give_up_late(&self) {
        let (generation, bound) = (locked(&self.router).generation, self.settings.message_timeout);
        let late = self.flight.oldest(generation).is_some_and(|since| since.elapsed() >= bound);
        if late && !self.flight.is_dead(generation) {
            tracing::warn!(
                brokers = self.settings.brokers,
                "no confirm within {bound:?}: making a new Kafka producer"
            );
            self.flight.kill(generation);
        }
    }

    /// Takes the client away and returns what is left to do, which blocks: settle everything that it still has.
    pub(super) fn retire(self: &Arc<Self>, purge: bool) -> impl FnOnce() + Send + 'static {
        let shared = Arc::clone(self);
        move || {
            let (client, generation, held) = {
                let mut router = locked(&shared.router);
                let held = if purge { router.holding.drain() } else { Vec::new() };
                (router.client.take(), router.generation, held)
            };
            shared.not_sent(held, "the publisher was closed");
            if let Some(client) = client {
                discard(&client);
            }
            shared.flight.abandon(generation, &Outcome::Unknown("the producer was closed".to_owned()));
        }
    }

    /// Replaces a broken producer: what it had is unknown. What waits was submitted by somebody who could not know that, and
    /// may be of the same key: it is not sent. False when it must be tried again.
    async fn replace(self: &Arc<Self>) -> bool {
        let shared = Arc::clone(self);
        let (old, generation) = {
            let mut router = locked(&self.router);
            (router.client.take(), router.generation)
        };
        let made = tokio::task::spawn_blocking(move || {
            if let Some(old) = old {
                discard(&old);
            }
            shared.flight.abandon(generation, &Outcome::Unknown("the producer was given up".to_owned()));
            produce(&shared.settings, &shared.flight, generation + 1)
        });
        let client = match made.await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return self.give_up_held(&error.to_string()),
            Err(error) => return self.give_up_held(&error.to_string()),
        };
        let mut router = locked(&self.router);
        // Under one lock: what is submitted from here on is either turned away here or comes after the outcomes were taken.
        let held = router.holding.drain();
        self.not_sent(held, "the producer was given up");
        router.client = Some(Arc::new(client));
        router.generation = generation + 1;
        true
    }

    /// Says of rows that waited that they wait no longer, and why.
    pub(super) fn not_sent(&self, held: Vec<Held>, why: &str) {
        for held in held {
            self.flight.settle(held.slot, 0, Outcome::Transient(format!("not sent: {why}")));
        }
    }

    fn give_up_held(&self, cause: &str) -> bool {
        tracing::error!(cause, "cannot make a new Kafka producer");
        let held = {
            let mut router = locked(&self.router);
            router.wanted.clear();
            router.holding.drain()
        };
        self.not_sent(held, &format!("no producer: {cause}"));
        false
    }

    /// Asks once for every topic that rows wait for. False when one of them has to be asked for again.
    async fn ask(self: &Arc<Self>) -> bool {
        let (client, wanted) = {
            let router = locked(&self.router);
            (router.client.clone(), router.wanted.clone())
        };
        let Some(client) = client else { return true };
        let wait = self.settings.connect_timeout;
        let names: Vec<String> = wanted.keys().cloned().collect();
        let asked = tokio::task::spawn_blocking(move || {
            let mut answers = Vec::with_capacity(names.len());
            for name in names {
                let answer = ask_topic(client.client(), &name, wait);
                answers.push((name, answer));
                if matches!(answer, Answer::Silence(_)) {
                    break; // the others would wait just as long; they are asked for in the next round
                }
            }
            answers
        });
        let Ok(answers) = asked.await else { return false };
        let mut complete = answers.len() == wanted.len();
        for (topic, answer) in answers {
            let since = wanted[&topic];
            complete &= self.answer(&topic, answer, since.elapsed());
        }
        self.release();
        complete
    }

    /// Acts on what the cluster said about a topic. False when it must be asked again.
    fn answer(&self, topic: &str, answer: Answer, waited: Duration) -> bool {
        let outcome = match answer {
            Answer::Known => {
                let mut router = locked(&self.router);
                router.wanted.remove(topic);
                router.known.insert(topic.to_owned());
                return true;
            }
            Answer::Unknown if waited < self.settings.unknown_topic_wait => return false,
            Answer::Unknown => outcome::of_refusal(Code::UnknownTopicOrPartition, topic),
            Answer::Refused(code) => outcome::of_refusal(code, topic),
            Answer::Silence(code) => {
                Outcome::Transient(format!("cannot reach {}: topic {topic:?}: {code}", self.settings.brokers))
            }
        };
        let mut router = locked(&self.router);
        router.wanted.remove(topic);
        let refused = router.holding.refuse(topic);
        for held in refused.rows {
            self.flight.settle(held.slot, 0, outcome.clone());
        }
        self.not_sent(refused.behind, "a row of its key goes to a topic that cannot be written");
        true
    }

    fn is_broken(&self) -> bool {
        self.flight.is_dead(locked(&self.router).generation)
    }

    fn wants_topics(&self) -> bool {
        !locked(&self.router).wanted.is_empty()
    }
}

/// Purges a client and serves the reports of what it had. Blocks.
fn discard(client: &Client) {
    client.purge(PurgeConfig::default().queue().inflight());
    if let Err(error) = client.flush(PURGE_WAIT) {
        tracing::debug!(%error, "purged rows were not all reported");
    }
}

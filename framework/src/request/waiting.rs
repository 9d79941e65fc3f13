//! The requests that wait for their answers: a bounded map, and whether anybody receives.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::{Answer, RequestError};
use crate::limits;

/// Whether answers are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The bus does not run.
    No,
    /// The reply queue is being made.
    Soon,
    /// Answers arrive.
    Yes,
}

/// What waits on one bus.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Where answers go: a queue of this instance.
    pub(crate) queue: String,
    heard: watch::Sender<Heard>,
    requests: Mutex<HashMap<Uuid, oneshot::Sender<Answer>>>,
}

/// One waiting request. Dropping it ends the waiting.
#[derive(Debug)]
pub(crate) struct Place {
    waiting: Arc<Waiting>,
    id: Uuid,
    pub(crate) answer: oneshot::Receiver<Answer>,
}

impl Waiting {
    pub(crate) fn new(queue: String) -> Self {
        Self { queue, heard: watch::Sender::new(Heard::No), requests: Mutex::default() }
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<Uuid, oneshot::Sender<Answer>>> {
        // Every change is one call: nothing can be half done.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether answers are received; when they are not any more, nobody waits any longer.
    pub(crate) fn hear(&self, heard: Heard) {
        self.heard.send_replace(heard);
        if heard == Heard::No {
            self.requests().clear();
        }
    }

    pub(crate) fn heard(&self) -> watch::Receiver<Heard> {
        self.heard.subscribe()
    }

    /// Takes a place for the answer to `id`.
    pub(crate) fn wait_for(self: &Arc<Self>, id: Uuid) -> Result<Place, RequestError> {
        let mut requests = self.requests();
        if requests.len() >= limits::REQUESTS_WAITING_MAX {
            return Err(RequestError::TooMany { waiting: requests.len() });
        }
        let (sender, answer) = oneshot::channel();
        requests.insert(id, sender);
        Ok(Place { waiting: Arc::clone(self), id, answer })
    }

    /// Hands an answer to whoever waits for it. `false`: nobody does.
    pub(crate) fn answered(&self, id: Uuid, answer: Answer) -> bool {
        let place = self.requests().remove(&id);
        place.is_some_and(|place| place.send(answer).is_ok())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.requests().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_given_up_when_it_is_dropped_and_when_the_bus_stops() {
        let waiting = Arc::new(Waiting::new("q".to_owned()));
        let (a, b) = (Uuid::now_v7(), Uuid::now_v7());
        drop(waiting.wait_for(a).unwrap());
        let failed = || Answer::Failed(super::super::Problem::new("no"));
        assert!(!waiting.answered(a, failed()), "it was cancelled");
        let mut place = waiting.wait_for(b).unwrap();
        waiting.hear(Heard::No);
        assert!((&mut place.answer).await.is_err());
    }

    #[test]
    fn there_is_a_limit() {
        let waiting = Arc::new(Waiting::new("q".to_owned()));
        let places: Vec<_> =
            (0..limits::REQUESTS_WAITING_MAX).map(|_| waiting.wait_for(Uuid::now_v7()).unwrap()).collect();
        assert!(matches!(waiting.wait_for(Uuid::now_v7()), Err(RequestError::TooMany { .. })));
        drop(places);
        assert!(waiting.wait_for(Uuid::now_v7()).is_ok());
    }
}

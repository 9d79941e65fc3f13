//! The receiving half: takes messages from the desk and settles them there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::{
    client::locked,
    desk::{Message, Next},
    reader::{self, Shared},
};
use crate::transport::{Consumer, Delivery, Inbox, Repeat, Settlement, TransportError};

/// When a delivery that was dropped unsettled comes again: late enough that a handler that always panics does not spin.
const DROPPED_WAIT: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct KafkaConsumer {
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Inbox,
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn receive(&mut self) -> Result<Delivery, TransportError> {
        loop {
            let news = self.shared.news.notified();
            match self.next()? {
                Next::Deliver(message, repeat) => return Ok(self.delivery(message, repeat)),
                Next::Fail(error) => return Err(error),
                Next::Wait(None) => news.await,
                Next::Wait(Some(due)) => {
                    // Elapsed or told, the desk is looked at again.
                    let _ = tokio::time::timeout_at(due.into(), news).await;
                }
            }
        }
    }

    async fn close(self: Box<Self>) -> Result<(), TransportError> {
        let settled = {
            let mut desk = locked(&self.shared.desk);
            desk.close();
            desk.is_settled()
        };
        // With deliveries still out the thread stays until the last of them is settled; that one waits for it.
        if settled { wait_until_finished(&self.shared).await } else { Ok(()) }
    }
}

impl KafkaConsumer {
    /// What lies on the desk, after starting over when the thread ended by itself.
    fn next(&self) -> Result<Next, TransportError> {
        let mut desk = locked(&self.shared.desk);
        if desk.finished {
            if let next @ Next::Fail(_) = desk.next(Instant::now()) {
                return Ok(next);
            }
            desk.finished = false;
            drop(desk);
            reader::start(&self.shared, &self.inbox)
                .inspect_err(|_| locked(&self.shared.desk).finished = true)?;
            return Ok(Next::Wait(None));
        }
        Ok(desk.next(Instant::now()))
    }

    fn delivery(&self, message: Arc<Message>, repeat: Repeat) -> Delivery {
        Delivery {
            headers: message.headers.clone(),
            body: message.body.clone(),
            source: message.topic.to_string(),
            repeat,
            settlement: Box::new(KafkaSettlement {
                shared: Arc::clone(&self.shared),
                message: Some(message),
            }),
        }
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        locked(&self.shared.desk).close();
    }
}

/// Waits until the thread committed what was handled and left the group.
async fn wait_until_finished(shared: &Shared) -> Result<(), TransportError> {
    let finished = async {
        loop {
            let told = shared.finished.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if locked(&shared.desk).finished {
                return;
            }
            told.await;
        }
    };
    let after = shared.settings.close_timeout;
    tokio::time::timeout(after, finished).await.map_err(|_| TransportError::Timeout {
        broker: shared.settings.brokers.clone(),
        call: "to commit and leave the group",
        after,
    })
}

struct KafkaSettlement {
    shared: Arc<Shared>,
    /// Taken by settling.
    message: Option<Arc<Message>>,
}

#[async_trait]
impl Settlement for KafkaSettlement {
    async fn ack(mut self: Box<Self>) -> Result<(), TransportError> {
        let Some(message) = self.message.take() else { return Ok(()) };
        let (kept, last) = {
            let mut desk = locked(&self.shared.desk);
            (desk.ack(&message), desk.closing && desk.is_settled())
        };
        self.shared.news.notify_one();
        if !kept {
            return Err(TransportError::Lost {
                broker: self.shared.settings.brokers.clone(),
                cause: format!(
                    "a partition of {:?} went to another consumer; the message comes again",
                    message.topic
                ),
            });
        }
        if last { wait_until_finished(&self.shared).await } else { Ok(()) }
    }

    async fn nack(mut self: Box<Self>, after: Duration) -> Result<(), TransportError> {
        self.give_back(after);
        Ok(())
    }
}

impl KafkaSettlement {
    fn give_back(&mut self, after: Duration) {
        if let Some(message) = self.message.take() {
            locked(&self.shared.desk).nack(message, Instant::now() + after);
            self.shared.news.notify_one();
        }
    }
}

impl Drop for KafkaSettlement {
    fn drop(&mut self) {
        self.give_back(DROPPED_WAIT);
    }
}

//! A sink that writes down what it gets and confirms it a little later.

use std::{collections::VecDeque, time::Duration};

use async_trait::async_trait;
use barid::transport::{
    Consumer, Full, Inbox, Outcome, OutgoingRow, Promises, Publisher, Token, Transport, TransportError,
};
use tokio::time::{Instant, sleep_until};

use crate::ledger::{Message, Seen};

/// Long enough that rows are in flight when a connection is cut.
const CONFIRM_AFTER: Duration = Duration::from_millis(10);
const WINDOW: usize = 256;

/// A way for messages to travel into a list.
pub(crate) struct Recorder(pub(crate) Seen);

struct Recording {
    seen: Seen,
    in_flight: VecDeque<(Instant, Token)>,
}

#[async_trait]
impl Transport for Recorder {
    fn promises(&self) -> Promises {
        Promises {
            durable: false,
            knows_repeats: false,
            delays: false,
            orders_keys: false,
            refuses_unknown_queues: false,
        }
    }

    async fn declare(&self, _inbox: &Inbox) -> Result<(), TransportError> {
        Ok(())
    }

    async fn consumer(&self, _inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        Err(TransportError::Database("this one only records".to_owned()))
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        Ok(Box::new(Recording { seen: self.0.clone(), in_flight: VecDeque::new() }))
    }
}

#[async_trait]
impl Publisher for Recording {
    fn submit(&mut self, row: &OutgoingRow, token: Token) -> Result<(), Full> {
        if self.in_flight.len() >= WINDOW {
            return Err(Full);
        }
        let key = row.aggregateid.as_deref().unwrap();
        self.seen.push(Message::parse(row.id, key, row.payload.as_ref().unwrap()));
        self.in_flight.push_back((Instant::now() + CONFIRM_AFTER, token));
        Ok(())
    }

    async fn settled(&mut self) -> Vec<(Token, Outcome)> {
        match self.in_flight.front() {
            Some((at, _)) => sleep_until(*at).await,
            None => std::future::pending().await,
        }
        let now = Instant::now();
        let due = self.in_flight.iter().take_while(|(at, _)| *at <= now).count();
        self.in_flight.drain(..due).map(|(_, token)| (token, Outcome::Confirmed)).collect()
    }

    async fn close(self: Box<Self>) -> Vec<(Token, Outcome)> {
        self.in_flight.into_iter().map(|(_, token)| (token, Outcome::Confirmed)).collect()
    }
}

//! The relay's transport, with a look at when its publisher hands out each confirm.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use barid::transport::{
    Consumer, Full, Inbox, Outcome, OutgoingRow, Promises, Publisher, Token, Transport, TransportError,
};
use uuid::Uuid;

use super::Times;

/// A transport that is looked at.
pub(super) struct Observed {
    transport: Arc<dyn Transport>,
    times: Arc<Times>,
}

impl Observed {
    pub(super) fn new(transport: Arc<dyn Transport>, times: Arc<Times>) -> Self {
        Self { transport, times }
    }
}

#[async_trait]
impl Transport for Observed {
    fn promises(&self) -> Promises {
        self.transport.promises()
    }

    async fn declare(&self, inbox: &Inbox) -> Result<(), TransportError> {
        self.transport.declare(inbox).await
    }

    async fn consumer(&self, inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        self.transport.consumer(inbox).await
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        let publisher = self.transport.publisher().await?;
        Ok(Box::new(Watched { publisher, ids: HashMap::new(), times: Arc::clone(&self.times) }))
    }
}

struct Watched {
    publisher: Box<dyn Publisher>,
    ids: HashMap<Token, Uuid>,
    times: Arc<Times>,
}

#[async_trait]
impl Publisher for Watched {
    fn submit(&mut self, row: &OutgoingRow, token: Token) -> Result<(), Full> {
        self.publisher.submit(row, token)?;
        self.ids.insert(token, row.id);
        Ok(())
    }

    async fn settled(&mut self) -> Vec<(Token, Outcome)> {
        let outcomes = self.publisher.settled().await;
        for (token, outcome) in &outcomes {
            let id = self.ids.remove(token);
            if let (Some(id), Outcome::Confirmed) = (id, outcome) {
                self.times.confirmed(id);
            }
        }
        outcomes
    }

    async fn close(self: Box<Self>) -> Vec<(Token, Outcome)> {
        self.publisher.close().await
    }
}

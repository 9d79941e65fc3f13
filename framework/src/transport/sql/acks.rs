//! Acknowledges what handlers finish, as many rows as are waiting with one statement.
//!
//! While one statement runs the next acknowledgements gather. Without this every message would cost a commit of its own,
//! which on SQLite is an fsync that nobody shares.

use std::collections::HashSet;

use tokio::sync::{mpsc, oneshot};

use super::queue::{Claim, Shared};
use crate::transport::TransportError;

/// Acknowledgements of one statement.
const BATCH_MAX: usize = 256;

/// Takes the acknowledgements of one consumer.
pub(super) struct Acks {
    waiting: mpsc::Sender<Waiting>,
    database: Shared,
}

/// A claim to acknowledge, and who wants to know whether it still held.
type Waiting = (Claim, oneshot::Sender<Result<bool, TransportError>>);

impl Acks {
    pub(super) fn start(database: Shared) -> Self {
        let (waiting, claims) = mpsc::channel(BATCH_MAX);
        tokio::spawn(ack_all(database.clone(), claims));
        Self { waiting, database }
    }

    /// Deletes the row; `false` when the claim does not hold it any more. A caller that is cancelled changes nothing about it.
    pub(super) async fn ack(&self, claim: Claim) -> Result<bool, TransportError> {
        let (tell, told) = oneshot::channel();
        if self.waiting.send((claim, tell)).await.is_ok()
            && let Ok(answer) = told.await
        {
            return answer;
        }
        let cause = "the task that acknowledges stopped".to_owned();
        Err(TransportError::Lost { broker: self.database.place().to_owned(), cause })
    }
}

/// Works until the consumer and all its deliveries are gone.
async fn ack_all(database: Shared, mut waiting: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let claims: Vec<Claim> = batch.iter().map(|(claim, _)| *claim).collect();
        let result = database.run(|| database.statements().ack(&claims)).await;
        let result = result.map(|gone| gone.into_iter().collect::<HashSet<i64>>());
        for (claim, tell) in batch.drain(..) {
            let answer = match &result {
                Ok(gone) => Ok(gone.contains(&claim.seq)),
                Err(error) => Err(database.error("ack", error.as_ref())),
            };
            // Who was cancelled does not want to know.
            let _ = tell.send(answer);
        }
    }
}

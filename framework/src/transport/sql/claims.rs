//! The claims that one consumer holds, and the task that renews them.
//!
//! A claim is renewed while its delivery is unsettled, also after the consumer was closed, and no longer. When renewing fails
//! for a whole lease the claim counts as lost: another consumer may have the row.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::Notify, task::AbortHandle, time::Instant};
use uuid::Uuid;

use super::{
    acks::Acks,
    queue::{BuryError, Claim, NewRow, Shared},
};
use crate::{
    limits::CALL_TIMEOUT,
    store::backend::IdempotencyKey,
    transport::{OutgoingRow, TransportError},
};

/// What one consumer holds: in its buffer or handed out.
pub(super) struct Claims {
    database: Shared,
    lease: Duration,
    /// Until when each claim certainly lasts, by the local clock.
    held: Mutex<HashMap<Claim, Instant>>,
    changed: Notify,
    acks: Acks,
    renewing: Mutex<Option<AbortHandle>>,
}

impl Claims {
    /// None yet, and a task that renews those to come until nobody refers to them any more.
    pub(super) fn start(database: Shared, lease: Duration) -> Arc<Self> {
        let claims = Arc::new(Self {
            acks: Acks::start(database.clone()),
            database,
            lease,
            held: Mutex::default(),
            changed: Notify::new(),
            renewing: Mutex::default(),
        });
        let task = tokio::spawn(renew_all(Arc::downgrade(&claims), lease / 3));
        *claims.renewing.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        claims
    }

    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    pub(super) fn hold(&self, claim: Claim, until: Instant) {
        self.lock().insert(claim, until);
    }

    /// How many rows are held: the prefetch counts them.
    pub(super) fn held(&self) -> usize {
        self.lock().len()
    }

    /// Whether it certainly still holds; forgets it when not.
    pub(super) fn is_held(&self, claim: Claim) -> bool {
        let holds = self.lock().get(&claim).is_some_and(|until| Instant::now() < *until);
        if !holds {
            self.release(claim);
        }
        holds
    }

    /// Stops to renew it. What becomes of the row is the caller's or the database's business.
    pub(super) fn release(&self, claim: Claim) {
        if self.lock().remove(&claim).is_some() {
            self.changed.notify_one();
        }
    }

    /// Returns after something was released, at once when that was since the last call. Cancel safe; for one caller.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) async fn ack(&self, claim: Claim) -> Result<(), TransportError> {
        let held = self.acks.ack(claim).await?;
        self.settled(claim, held)
    }

    pub(super) async fn nack(&self, claim: Claim, after: Duration) -> Result<(), TransportError> {
        let settle = || self.database.statements().nack(claim.id, claim.seq, after);
        let held = self.database.call("nack", settle).await?;
        self.settled(claim, held)
    }

    /// Puts `letter` in the place of the claimed row.
    pub(super) async fn bury(
        &self,
        claim: Claim,
        letter: &OutgoingRow,
        key: &IdempotencyKey,
    ) -> Result<(), TransportError> {
        let headers = serde_json::to_string(&letter.wire_headers())
            .map_err(|error| TransportError::Database(format!("the headers have no JSON form: {error}")))?;
        let row = NewRow::new(letter.destination.name(), letter, headers);
        let burying = self.database.statements().bury(claim, &row, key);
        let held = match tokio::time::timeout(CALL_TIMEOUT, burying).await {
            Ok(Ok(held)) => held,
            Ok(Err(BuryError::Statement(error))) => return Err(self.database.error("bury", Some(&error))),
            Ok(Err(BuryError::Commit(error))) => return Err(TransportError::Database(error.to_string())),
            Err(_) => return Err(self.database.error("bury", None)),
        };
        self.database.bell().send_replace(());
        self.settled(claim, held)
    }

    fn settled(&self, claim: Claim, held: bool) -> Result<(), TransportError> {
        self.release(claim);
        if held {
            return Ok(());
        }
        Err(TransportError::Lost {
            broker: self.database.place().to_owned(),
            cause: format!(
                "the claim on row {} of queue_message had expired: the message comes again",
                claim.seq
            ),
        })
    }

    /// Ends claims as if their rows had never been handed out.
    pub(super) async fn give_back(&self, claims: &[Claim]) -> Result<(), TransportError> {
        let mut result = Ok(());
        for (id, seqs) in by_claim(claims) {
            let statement = || self.database.statements().give_back(id, &seqs);
            result = self.database.call("give back", statement).await.and(result);
        }
        claims.iter().for_each(|claim| self.release(*claim));
        result
    }

    /// Renews everything that is held. A claim that could not be renewed in time is not renewed again.
    async fn renew(&self) {
        let now = Instant::now();
        let held: Vec<Claim> =
            self.lock().iter().filter(|(_, until)| now < **until).map(|(c, _)| *c).collect();
        for (id, seqs) in by_claim(&held) {
            let until = Instant::now() + self.lease;
            let statement = || self.database.statements().renew(id, &seqs, self.lease);
            if let Err(error) = self.database.call("renew", statement).await {
                tracing::warn!(%error, rows = seqs.len(), "claims could not be renewed");
                continue;
            }
            let mut held = self.lock();
            for seq in seqs {
                held.entry(Claim { id, seq }).and_modify(|lasts| *lasts = until);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Claim, Instant>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        if let Some(task) = self.renewing.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

async fn renew_all(claims: Weak<Claims>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(claims) = claims.upgrade() else { return };
        claims.renew().await;
    }
}

/// The rows of each claim. A statement is for one claim, so that it never touches a row that is held under another.
fn by_claim(claims: &[Claim]) -> BTreeMap<Uuid, Vec<i64>> {
    let mut grouped: BTreeMap<Uuid, Vec<i64>> = BTreeMap::new();
    for claim in claims {
        grouped.entry(claim.id).or_default().push(claim.seq);
    }
    grouped
}

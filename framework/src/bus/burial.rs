//! Moving messages to the dead letters: in one step with the acknowledgement where the transport can, sent and confirmed before
//! it elsewhere.

use uuid::Uuid;

use super::BusCore;
use crate::{
    dead_letter::{Death, dead_letter},
    error::Result,
    incoming::Incoming,
    store::backend::IdempotencyKey,
    transport::{Delivery, Settlement},
};

impl BusCore {
    /// Moves a message to the dead letters. `settlement` is taken when that settled the delivery too; otherwise it is to be
    /// acknowledged.
    pub(crate) async fn bury(
        &self,
        settlement: &mut Option<Box<dyn Settlement>>,
        message: &Incoming,
        cause: &str,
        attempts: u32,
        handler: &str,
    ) -> Result<()> {
        tracing::error!(
            bus = self.name, id = %message.id, message = message.name, attempts, error = cause, handler,
            dead_letters = %self.settings.dead_letters, "giving a message up"
        );
        let death = Death { bus: &self.name, queue: &self.inbox.queue, cause, attempts, handler };
        let letter = dead_letter(message, &self.settings.dead_letters, &death);
        if let Some(settling) = settlement {
            let key = IdempotencyKey { message_id: message.id, scope: self.name.clone() };
            match settling.bury(&letter, &key).await {
                Some(Ok(())) => {
                    *settlement = None;
                    return Ok(());
                }
                Some(Err(error)) => return Err(error.into()),
                None => {}
            }
        }
        self.send_all(&[letter]).await
    }

    /// A delivery that cannot even be identified.
    pub(crate) async fn bury_unreadable(&self, delivery: Delivery, cause: &str) {
        let message = Incoming {
            id: content_id(&delivery),
            name: delivery.headers.get(crate::headers::TYPE).unwrap_or_default().to_owned(),
            headers: delivery.headers,
            body: delivery.body,
            source: delivery.source,
            repeat: delivery.repeat,
        };
        let mut settlement = Some(delivery.settlement);
        let buried = self.bury(&mut settlement, &message, cause, 0, "").await;
        let settled = match (buried, settlement) {
            (Ok(()), Some(settlement)) => settlement.ack().await,
            (Ok(()), None) => Ok(()),
            (Err(error), settlement) => {
                tracing::error!(bus = self.name, %error, "burying a message that cannot be identified");
                match settlement {
                    Some(settlement) => settlement.nack(self.policy.pause_max).await,
                    None => Ok(()),
                }
            }
        };
        if let Err(error) = settled {
            tracing::error!(bus = self.name, %error, "settling a message that cannot be identified");
        }
    }
}

/// The id of a message that has none: the same whenever it is delivered, so that a second dead letter of it is recognised.
fn content_id(delivery: &Delivery) -> Uuid {
    let mut content = delivery.source.clone().into_bytes();
    for (name, value) in delivery.headers.iter() {
        for part in [name, value] {
            content.push(0);
            content.extend_from_slice(part.as_bytes());
        }
    }
    content.push(0);
    content.extend_from_slice(&delivery.body);
    Uuid::new_v5(&crate::incoming::FOREIGN_ID_NAMESPACE, &content)
}

//! Batches: what a builder is told about them, and what is wrong with it.

use std::{collections::BTreeMap, sync::Arc};

use super::{BusBuilder, problems::Problems};
use crate::{
    batch::{BatchPolicy, IntoBatchHandler, TypedBatch},
    bus::Settings,
    config::BusConfig,
    limits,
    message::Message,
};

impl BusBuilder {
    /// Handles up to [`BatchPolicy::messages_max`] messages in one unit of work. Off by default. See [`crate::batch`].
    ///
    /// Needs a SQL unit of work that commits with the transaction, or none. A smaller prefetch is raised to twice the messages
    /// of a batch: one that is handled, and the next.
    pub fn batch(mut self, policy: BatchPolicy) -> Self {
        self.batch = Some(policy);
        self
    }

    /// Adds a handler that takes several messages of one type in one call, as `Vec<M>` or as [`Batch<M>`](crate::Batch); the
    /// bus needs [`BusBuilder::batch`]. What is handled alone comes as one message.
    ///
    /// ```
    /// # use barid::{Batch, BatchPolicy, Bus, Context, Memory, Message, Result};
    /// # #[derive(serde::Serialize, serde::Deserialize, Message)]
    /// # #[message(name = "orders.place")]
    /// # struct PlaceOrder { order_id: u64 }
    /// # #[derive(serde::Serialize, serde::Deserialize, Message)]
    /// # #[message(name = "orders.cancel")]
    /// # struct CancelOrder { order_id: u64 }
    /// async fn place_orders(orders: Vec<PlaceOrder>, cx: Context) -> Result<()> {
    ///     tracing::info!(orders = orders.len(), bus = cx.bus(), "placing");
    ///     Ok(())
    /// }
    ///
    /// async fn cancel_orders(orders: Batch<CancelOrder>) -> Result<()> {
    ///     for order in &orders {
    ///         tracing::info!(order = order.order_id, message = %order.id(), key = order.key(), "cancelling");
    ///     }
    ///     Ok(())
    /// }
    ///
    /// let bus = Bus::builder("orders")
    ///     .transport(Memory::new())
    ///     .batch(BatchPolicy::of(50))
    ///     .batch_handler(place_orders)
    ///     .batch_handler(cancel_orders)
    ///     .build()?;
    /// # drop(bus); Ok::<(), barid::BuildError>(())
    /// ```
    pub fn batch_handler<M: Message, Args: 'static>(
        mut self,
        handler: impl IntoBatchHandler<M, Args>,
    ) -> Self {
        self.handlers.add(M::NAME, Arc::new(TypedBatch::new(handler)));
        self
    }

    /// Configuration over code. `None` when batches are off.
    pub(super) fn effective_batch(
        &mut self,
        config: &BusConfig,
        origins: &mut BTreeMap<&'static str, String>,
        problems: &mut Problems,
    ) -> Option<BatchPolicy> {
        let mut policy = self.batch.unwrap_or(BatchPolicy::of(1));
        let configured = [
            (config.batch_messages_max.is_some(), "batch_messages_max"),
            (config.batch_wait_ms_max.is_some(), "batch_wait_ms_max"),
        ];
        for (_, key) in configured.into_iter().filter(|(set, _)| *set) {
            let origin = config.origins.get(key).cloned();
            origins.insert(key, origin.unwrap_or_else(|| "configuration".to_owned()));
        }
        policy.messages_max = config.batch_messages_max.unwrap_or(policy.messages_max);
        policy.wait_ms_max = config.batch_wait_ms_max.unwrap_or(policy.wait_ms_max);
        let (messages, wait) = (limits::BATCH_MESSAGES_MAX, limits::BATCH_WAIT_MS_MAX);
        if !(1..=messages).contains(&policy.messages_max) || policy.wait_ms_max > wait {
            problems.add(
                "BRD072",
                format!(
                    "a batch of up to {} messages that waits up to {} ms",
                    policy.messages_max, policy.wait_ms_max
                ),
                format!("choose 1 to {messages} messages (batch_messages_max) and 0 to {wait} ms (batch_wait_ms_max)"),
            );
            return None;
        }
        let prefetch = u16::try_from(policy.messages_max * 2).unwrap_or(u16::MAX);
        (policy.messages_max > 1).then(|| {
            self.inbox.prefetch = self.inbox.prefetch.max(prefetch);
            policy
        })
    }

    pub(super) fn check_batches(&self, settings: Option<&Settings>, problems: &mut Problems) {
        let Some(settings) = settings else { return };
        for (name, handler) in self.handlers.iter().filter(|(_, handler)| handler.gathers()) {
            if self.batch.is_none() && settings.batch.is_none() {
                problems.add(
                    "BRD071",
                    format!(
                        "handler {} of message {name:?} takes several messages, and the bus has no batches",
                        handler.type_name()
                    ),
                    "call .batch(BatchPolicy::default()), or take one message and call .handler(..)",
                );
            }
        }
        let Some(unit_of_work) = self.unit_of_work.as_ref().filter(|_| settings.batch.is_some()) else {
            return;
        };
        if unit_of_work.batches().is_none() {
            problems.add(
                "BRD070",
                "it has batches, and a unit of work that holds one message",
                "use SqlUnitOfWork or no unit of work, or leave .batch(..) out",
            );
        } else if !settings.commit_with_transaction {
            let origin = &settings.origins["commit_with_transaction"];
            problems.add(
                "BRD070",
                format!(
                    "it has batches, but commit_with_transaction is false ({origin}): the messages of a batch have one unit of \
                     work, which cannot commit after each of them"
                ),
                format!(
                    "set [bus.{}] commit_with_transaction = true, or call .commit_with_transaction(true) on its unit of work",
                    self.name
                ),
            );
        }
    }
}

//! Who takes part: branches, units of work, event stores.

use std::sync::Arc;

use super::{DistributedUnitOfWork, ParticipantId};
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
use crate::store::distributed::{branch::TwoPhase, unit::UnitOfWorkParticipant};
use crate::{
    distributed::{
        core::BranchKind,
        error::DistributedError,
        log::BranchRecord,
        machine::Part,
        participant::{EventBranch, TransactionParticipant},
    },
    event_store::StagedAppend,
    limits,
};

impl DistributedUnitOfWork {
    /// Adds a branch. They are asked at the same time, and told in this order.
    ///
    /// # Errors
    /// When the transaction has begun, the coordinator does not know the branch's resource, there are too many, or it is a second
    /// commit point.
    pub fn register_participant(
        &mut self,
        name: impl Into<String>,
        participant: impl TransactionParticipant,
    ) -> Result<ParticipantId, DistributedError> {
        self.enlist(name.into(), Arc::new(participant))
    }

    /// Adds a unit of work of another database: work that is done in it, and messages that leave through that database's outbox,
    /// commit with the transaction. See [`UnitOfWorkParticipant`].
    ///
    /// # Errors
    /// As [`Self::register_participant`].
    #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
    pub fn register_unit_of_work<DB: TwoPhase>(
        &mut self,
        name: impl Into<String>,
        unit: UnitOfWorkParticipant<DB>,
    ) -> Result<ParticipantId, DistributedError> {
        self.register_participant(name, unit)
    }

    /// Adds an event store: [staged](crate::distributed::EventStoreResource), on any database, or
    /// [in a branch](crate::distributed::SqlBranch::events). Events in the home database need no participant: append them there, with
    /// [`EventStore::append_in`](crate::EventStore::append_in) on the connection of the home unit of work.
    ///
    /// ```no_run
    /// # use barid::{EventStore, Message, distributed::*, event_store::{Expected, StagedAppend, StreamName}};
    /// # #[derive(serde::Serialize, serde::Deserialize, Message)]
    /// # #[message(name = "orders.placed")]
    /// # struct OrderPlaced { order_id: u64 }
    /// # async fn doc(home: sqlx::SqlitePool, orders: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::sync::Arc;
    /// let log = Arc::new(SqlDecisionLog::new(home));
    /// let orders = EventStoreResource::new(ResourceId::new("orders")?, EventStore::new(orders));
    /// let coordinator = Coordinator::connect(log.clone(), [orders.clone() as _], Settings::default()).await?;
    ///
    /// let mut unit = DistributedUnitOfWork::new(&coordinator);
    /// let home = SqlHome::new(&log);
    /// unit.register_home(home.clone())?;
    /// let events = unit.register_event_store("orders", orders.participant())?;
    /// unit.begin().await?;
    /// sqlx::query("UPDATE stock SET left = left - 1").execute(&mut *home.connection().await?).await?;
    /// let placed = StagedAppend::new(StreamName::of("order", 7)?, Expected::NoStream);
    /// unit.add_events_to_participant(events, placed.event(OrderPlaced { order_id: 7 })).await?;
    /// unit.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Self::register_participant`].
    pub fn register_event_store(
        &mut self,
        name: impl Into<String>,
        events: impl EventBranch,
    ) -> Result<ParticipantId, DistributedError> {
        let events = Arc::new(events);
        let id = self.enlist(name.into(), Arc::clone(&events) as _)?;
        self.events.insert(id, events);
        Ok(id)
    }

    /// Adds events to a stream of an event store that takes part. They follow those that were added before, and are in the store
    /// only if the whole transaction commits.
    ///
    /// # Errors
    /// When the participant is unknown or no event store, and when it refuses the events: the transaction cannot commit then.
    pub async fn add_events_to_participant(
        &self,
        id: ParticipantId,
        append: StagedAppend,
    ) -> Result<(), DistributedError> {
        let Some(record) = self.records.get(id.0) else {
            return Err(DistributedError::UnknownParticipant(id.0));
        };
        let Some(events) = self.events.get(&id) else {
            let (name, kind) = (record.name.clone(), record.resource_type.clone());
            return Err(DistributedError::WrongParticipantKind { name, kind });
        };
        let added = events.add_events(append).await;
        added.map_err(|cause| DistributedError::Events { name: record.name.clone(), cause })
    }

    fn enlist(
        &mut self,
        name: String,
        participant: Arc<dyn TransactionParticipant>,
    ) -> Result<ParticipantId, DistributedError> {
        self.refuse_begun()?;
        let resource = participant.resource_id().clone();
        if !self.coordinator.0.resources.contains_key(&resource) {
            return Err(DistributedError::UnknownResource { name, resource });
        }
        if self.parts.len() >= limits::DISTRIBUTED_BRANCHES_MAX {
            return Err(DistributedError::TooManyBranches(limits::DISTRIBUTED_BRANCHES_MAX));
        }
        let kind = participant.kind();
        let taken = self.home.is_some() || self.parts.iter().any(|part| part.record.kind == BranchKind::Last);
        if kind == BranchKind::Last && taken {
            return Err(DistributedError::TwoCommitPoints { name });
        }
        let resource_type = participant.resource_type().to_owned();
        let record = BranchRecord { name, resource, resource_type, kind };
        self.records.push(record.clone());
        self.parts.push(Part { record, participant });
        Ok(ParticipantId(self.parts.len() - 1))
    }
}

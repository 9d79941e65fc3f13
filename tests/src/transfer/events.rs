//! Money that arrives as events, in a store that stages.

use std::sync::Arc;

use barid::{
    Error, EventStore,
    distributed::{
        BranchId, CoordinatorId, DistributedUnitOfWork, EventBranch, EventStoreResource, Resource,
        ResourceId, RmError,
    },
    event_store::{Expected, NewEvent, StagedAppend, StreamName},
    store::{AnyPool, Backend},
};
use sqlx::{MySql, Postgres, Sqlite};

use super::{AMOUNT, BALANCE, deaf::Deaf};

/// The event store of a database.
pub(super) enum Events {
    Postgres(Arc<EventStoreResource<Postgres>>),
    MariaDb(Arc<EventStoreResource<MySql>>),
    Sqlite(Arc<EventStoreResource<Sqlite>>),
}

/// Its streams in one transaction.
pub(super) type EventsUnit = Arc<dyn EventBranch>;

/// The URL of the database.
pub(super) fn plain(url: &str) -> &str {
    url.strip_prefix("events+").unwrap_or(url)
}

/// What an account has, counted by its events. A negative number when its stream is still reserved.
pub(super) fn balance(account: i64) -> String {
    format!(
        "SELECT {BALANCE}+{AMOUNT}*(SELECT count(*) FROM event_log WHERE stream='account-{account}')\
         -100000*(SELECT count(*) FROM event_stream WHERE stream='account-{account}' AND reserved_by IS NOT NULL)"
    )
}

/// Credits an account that has had no events; `fails` expects some that are not there.
pub(super) async fn credit(events: &EventsUnit, account: i64, fails: bool) -> Result<(), Error> {
    let expected = if fails { Expected::Version(7) } else { Expected::NoStream };
    let append = StagedAppend::new(StreamName::of("account", account)?, expected);
    Ok(events.add_events(append.event(NewEvent::raw("account.credited", "{}"))).await?)
}

impl Events {
    pub(super) fn of(id: ResourceId, pool: &AnyPool) -> Result<(Self, Arc<dyn Resource>), Error> {
        Ok(match pool {
            AnyPool::Postgres(pool) => {
                let events = EventStoreResource::new(id, EventStore::new(pool.clone()));
                (Self::Postgres(Arc::clone(&events)), events)
            }
            AnyPool::MySql(pool) => {
                let events = EventStoreResource::new(id, EventStore::new(pool.clone()));
                (Self::MariaDb(Arc::clone(&events)), events)
            }
            AnyPool::Sqlite(pool) => {
                let events = EventStoreResource::new(id, EventStore::new(pool.clone()));
                (Self::Sqlite(Arc::clone(&events)), events)
            }
            _ => return Err(Error::new("a database that the tests do not know")),
        })
    }

    pub(super) fn register(&self, unit: &mut DistributedUnitOfWork, deaf: bool) -> Result<EventsUnit, Error> {
        match self {
            Self::Postgres(events) => register(unit, events, deaf),
            Self::MariaDb(events) => register(unit, events, deaf),
            Self::Sqlite(events) => register(unit, events, deaf),
        }
    }

    pub(super) async fn prepared(&self, coordinator: CoordinatorId) -> Result<Vec<BranchId>, RmError> {
        match self {
            Self::Postgres(events) => events.prepared(coordinator).await,
            Self::MariaDb(events) => events.prepared(coordinator).await,
            Self::Sqlite(events) => events.prepared(coordinator).await,
        }
    }
}

fn register<DB: Backend>(
    unit: &mut DistributedUnitOfWork,
    events: &Arc<EventStoreResource<DB>>,
    deaf: bool,
) -> Result<EventsUnit, Error> {
    let branch = events.participant();
    let name = events.id().as_str().to_owned();
    if deaf {
        unit.register_participant(name, Deaf(branch.clone()))?;
    } else {
        unit.register_event_store(name, branch.clone())?;
    }
    Ok(Arc::new(branch))
}

//! Sagas in memory, for buses without a database: tests, and state that may be lost with the process.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    limits,
    store::{
        saga::{Change, Conflict, Correlation, Held, Lookup, Replaced, SagaStore, Saved, Saving, Stored},
        statement::Statement,
    },
    unit_of_work::Unit,
};

/// Sagas that live as long as this value and its clones. Give clones to several buses, and they have the same sagas.
///
/// Revisions, uniqueness and tombstones work as in a database: changes become visible when the message commits, and not at all when
/// it fails.
#[derive(Clone, Default)]
pub struct MemorySagas(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    rows: HashMap<Uuid, Row>,
    /// Saga, property and value to id.
    correlations: HashMap<(String, Correlation), Uuid>,
    /// What messages hold that have saved and not yet committed.
    held: HashSet<Key>,
}

struct Row {
    saga: String,
    stored: Stored,
    completed: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Row(Uuid),
    Value(String, Correlation),
}

impl MemorySagas {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change is checked before it is made, so a panic elsewhere leaves the table whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemorySagas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySagas").field("sagas", &self.table().rows.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl SagaStore for MemorySagas {
    fn read(&self, _: &str, _: &Lookup, _: bool) -> Option<Statement> {
        None
    }

    fn found(
        &self,
        _: Option<&mut dyn Unit>,
        _: Option<usize>,
        saga: &str,
        lookup: &Lookup,
    ) -> Result<Option<Stored>> {
        let table = self.table();
        let id = match lookup {
            Lookup::Id(id) => Some(*id),
            Lookup::Values(values) => values
                .iter()
                .find_map(|value| table.correlations.get(&(saga.to_owned(), value.clone())).copied()),
        };
        let row = id.and_then(|id| table.rows.get(&id)).filter(|row| row.saga == saga);
        Ok(row.map(|row| row.stored.clone()))
    }

    fn save(&self, changes: &[Saved]) -> Result<Saving> {
        let changes: Vec<_> = changes.iter().map(|saved| saved.change.clone()).collect();
        let keys: HashSet<Key> = changes.iter().flat_map(keys).collect();
        let mut table = self.table();
        for change in &changes {
            table.check(change)?;
        }
        if let Some(key) = keys.iter().find(|key| table.held.contains(key)) {
            return Err(Error::from(Conflict(format!("another message is saving {key:?}"))));
        }
        table.held.extend(keys.iter().cloned());
        Ok(Saving::Held(Box::new(Checked { sagas: self.clone(), changes, keys })))
    }

    async fn replace(&self, _: Option<&mut dyn Unit>, change: &Change) -> Result<Replaced> {
        // Only looks; what is saved is checked again.
        let current = self.table().rows.get(&change.id).map(|row| row.stored.clone());
        let same = current.as_ref().is_some_and(|current| Some(current.revision) == change.read);
        Ok(if same { Replaced::Done } else { Replaced::Stale(current) })
    }

    async fn purge(&self, completed_for: Duration, rows_max: u32) -> Result<u64> {
        let mut table = self.table();
        let old = |row: &Row| row.completed.is_some_and(|at| at.elapsed() > completed_for);
        let gone: HashSet<Uuid> = table
            .rows
            .iter()
            .filter(|(_, row)| old(row))
            .map(|(id, _)| *id)
            .take(usize::try_from(rows_max).unwrap_or(usize::MAX))
            .collect();
        table.rows.retain(|id, _| !gone.contains(id));
        table.correlations.retain(|_, id| !gone.contains(id));
        Ok(u64::try_from(gone.len()).unwrap_or(u64::MAX))
    }
}

fn keys(change: &Change) -> impl Iterator<Item = Key> + '_ {
    let values = change.added.iter().chain(&change.replaced);
    values.map(|value| Key::Value(change.saga.clone(), value.clone())).chain([Key::Row(change.id)])
}

impl Table {
    fn check(&self, change: &Change) -> Result<()> {
        let conflict = |what: String| Err(Error::from(Conflict(what)));
        let current = self.rows.get(&change.id).map(|row| row.stored.revision);
        if current != change.read {
            return conflict(format!("saga {:?} has revision {current:?}", change.saga));
        }
        for value in change.added.iter().chain(&change.replaced) {
            let owner = self.correlations.get(&(change.saga.clone(), value.clone()));
            if owner.is_some_and(|owner| *owner != change.id) {
                return conflict(format!(
                    "another saga {:?} has {} = {}",
                    change.saga, value.property, value.value
                ));
            }
        }
        if current.is_none() && self.rows.len() >= limits::MEMORY_SAGAS_MAX {
            return Err(Error::new(format!(
                "there are {} sagas in memory: keep them in a database, or complete some",
                limits::MEMORY_SAGAS_MAX
            )));
        }
        Ok(())
    }

    fn apply(&mut self, change: Change) {
        let before = self.rows.remove(&change.id).map(|row| row.stored.correlations).unwrap_or_default();
        let replaced = |known: &Correlation| change.replaced.iter().any(|new| new.property == known.property);
        let (gone, mut correlations): (Vec<_>, Vec<_>) = before.into_iter().partition(replaced);
        for value in gone {
            self.correlations.remove(&(change.saga.clone(), value));
        }
        for value in change.added.into_iter().chain(change.replaced) {
            self.correlations.insert((change.saga.clone(), value.clone()), change.id);
            correlations.push(value);
        }
        let stored = Stored {
            id: change.id,
            revision: change.read.map_or(0, |read| read + 1),
            correlations,
            data: change.data,
            timeouts: change.timeouts,
        };
        let completed = stored.data.is_none().then(Instant::now);
        self.rows.insert(change.id, Row { saga: change.saga, stored, completed });
    }
}

/// Checked changes. Dropped unconfirmed, they never were.
struct Checked {
    sagas: MemorySagas,
    changes: Vec<Change>,
    keys: HashSet<Key>,
}

impl Held for Checked {
    fn confirm(mut self: Box<Self>) {
        let changes = std::mem::take(&mut self.changes);
        let mut table = self.sagas.table();
        for change in changes {
            table.apply(change);
        }
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        let mut table = self.sagas.table();
        for key in &self.keys {
            table.held.remove(key);
        }
    }
}

//! What is said to a bus about its sagas, and what can be wrong with them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{BusBuilder, problems::Problems};
use crate::{
    background::Background,
    bus::Settings,
    destination::checked_name,
    limits,
    saga::{Data, Definition, MemorySagas, definition, retention::Retention},
    store::saga::SagaStore,
    unit_of_work::Capabilities,
};

/// The sagas of a bus.
pub(crate) struct Sagas {
    /// Where they are kept; `None` when the bus has none.
    pub(crate) store: Option<Arc<dyn SagaStore>>,
    pub(crate) conflict_retries_max: u32,
}

/// What was given to the builder.
pub(super) struct Given {
    declared: Vec<Declared>,
    memory: Option<MemorySagas>,
    conflict_retries_max: u32,
    retention: Duration,
}

struct Declared {
    name: String,
    messages: Vec<&'static str>,
    properties: Vec<String>,
    starts: bool,
    times_out: bool,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            declared: Vec::new(),
            memory: None,
            conflict_retries_max: limits::SAGA_CONFLICT_RETRIES_MAX,
            retention: limits::SAGA_RETENTION,
        }
    }
}

impl Given {
    /// Whether their state has to commit with the unit of work.
    pub(super) fn are_in_the_unit_of_work(&self) -> bool {
        !self.declared.is_empty() && self.memory.is_none()
    }

    pub(super) fn finish(self, unit: Option<&Capabilities>) -> (Sagas, Option<Arc<dyn Background>>) {
        let memory = self.memory.map(|memory| Arc::new(memory) as Arc<dyn SagaStore>);
        let store = memory.or_else(|| unit.and_then(|unit| unit.sagas.clone()));
        let store = store.filter(|_| !self.declared.is_empty());
        let retention = store
            .clone()
            .map(|store| Arc::new(Retention { store, keep_for: self.retention }) as Arc<dyn Background>);
        (Sagas { store, conflict_retries_max: self.conflict_retries_max }, retention)
    }
}

impl BusBuilder {
    /// Adds a saga; see [`saga`](crate::saga). Its handlers run in the order of registration among all handlers of a message, so one
    /// message can concern several sagas and have handlers of its own.
    pub fn saga<D: Data>(mut self, definition: Definition<D>) -> Self {
        let definition::Given { name, handlers, starts, times_out, properties } = definition.given();
        let mut messages = Vec::with_capacity(handlers.len());
        for (message, handler) in handlers {
            self.handlers.add(message, handler);
            messages.push(message);
        }
        self.sagas.declared.push(Declared { name, messages, properties, starts, times_out });
        self
    }

    /// Keeps sagas in memory, on a bus whose unit of work is not SQL. They are lost with the process.
    pub fn memory_sagas(mut self, sagas: MemorySagas) -> Self {
        self.sagas.memory = Some(sagas);
        self
    }

    /// How often a message is handled again at once because somebody else was first with its saga. It does not count as an attempt;
    /// after that it does, and the [`RetryPolicy`](crate::RetryPolicy) says how it goes on. Default: 5.
    pub fn saga_conflict_retries_max(mut self, retries: u32) -> Self {
        self.sagas.conflict_retries_max = retries;
        self
    }

    /// How long the tombstone of a completed saga is kept. A start that comes later than this begins a new saga. Default: 7 days.
    pub fn saga_retention(mut self, keep_for: Duration) -> Self {
        self.sagas.retention = keep_for;
        self
    }

    pub(super) fn check_sagas(
        &self,
        settings: Option<&Settings>,
        unit: Option<&Capabilities>,
        problems: &mut Problems,
    ) {
        let in_memory = self.sagas.memory.is_some() && !self.sagas.declared.is_empty();
        if in_memory && unit.is_some() && settings.is_some_and(|settings| !settings.commit_with_transaction) {
            problems.add(
                "BRD012",
                "it has sagas, but commit_with_transaction is false: the unit of work would commit before the sagas are saved",
                format!("set [bus.{}] commit_with_transaction = true, or say so on its unit of work", self.name),
            );
        }
        if let (Some(database), Some(_)) = (unit.and_then(|unit| unit.database), &self.sagas.memory) {
            problems.add(
                "BRD041",
                format!("it keeps sagas in memory, and its unit of work is on {database}: they would not commit together"),
                "take .memory_sagas(..) out: sagas are then kept in the database",
            );
        }
        let mut names = BTreeSet::new();
        for saga in &self.sagas.declared {
            let mut wrong = |what: &str, remedy: &str| {
                problems.add("BRD040", format!("saga {:?} {what}", saga.name), remedy);
            };
            if !names.insert(&saga.name) {
                wrong("is declared twice", "give each saga a name of its own");
            }
            if !saga.starts {
                wrong("is started by no message, so there will never be one", "call .starts_with(..)");
            }
            if saga.times_out && self.schedule.is_none() {
                wrong(
                    "has timeouts, and the bus no schedule to keep them in",
                    "call .schedule(SqlSchedule::new()), or .schedule(MemorySchedule::new()) beside .memory_sagas(..)",
                );
            }
            let mut messages = BTreeSet::new();
            for message in &saga.messages {
                if !messages.insert(message) {
                    wrong(
                        &format!("has two handlers for message {message:?}"),
                        "keep one; one handler can find its saga by several properties: by(..).or(..)",
                    );
                }
            }
            for name in std::iter::once(&saga.name).chain(&saga.properties) {
                problems.name(checked_name(name.clone()));
            }
        }
    }
}

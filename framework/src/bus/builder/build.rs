//! From what was said to a bus: the effective settings, and everything that is wrong at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::OnceCell;

use super::{BuildError, BusBuilder, problems::Problems, schedule::scheduler};
use crate::{
    bus::{Bus, BusCore, Settings},
    destination::checked_name,
    handler::Provided,
    health::Vitals,
    pipeline::{incoming_steps, outgoing_steps},
    retry::MemoryAttempts,
    schedule::Scheduler,
    unit_of_work::Capabilities,
};

/// A time that the configuration gives, or the code.
pub(super) fn millis(configured: Option<u64>, code: Duration) -> Duration {
    configured.map_or(code, Duration::from_millis)
}

impl BusBuilder {
    /// The bus.
    ///
    /// # Errors
    /// [`BuildError`] with every problem: a missing transport or handler, an outbox or idempotency that could not keep its
    /// promise, handlers that ask for what the bus has not, positions that name no step, names that no broker takes.
    pub fn build(mut self) -> Result<Bus, BuildError> {
        let mut problems = Problems(Vec::new());
        let settings = self.effective(&mut problems);
        let capabilities = self.unit_of_work.as_ref().map(|unit| unit.capabilities());
        self.check_commit_timing(&settings, capabilities.as_ref(), &mut problems);
        self.check_handlers(capabilities.as_ref(), &mut problems);
        self.check_mark(settings.as_ref(), &mut problems);
        self.check_batches(settings.as_ref(), &mut problems);
        self.check_sagas(settings.as_ref(), capabilities.as_ref(), &mut problems);
        let start_topics = self.subscribe_at_start(&mut problems);
        let topics = self.inbox.topics.iter().chain(&start_topics).chain(&self.replies);
        for name in [&self.name, &self.inbox.queue].into_iter().chain(topics) {
            problems.name(checked_name(name.clone()));
        }
        let mut incoming = incoming_steps();
        for (position, step) in std::mem::take(&mut self.incoming) {
            problems.step(incoming.insert(position, step));
        }
        let mut outgoing = outgoing_steps();
        for (position, step) in std::mem::take(&mut self.outgoing) {
            problems.step(outgoing.insert(position, step));
        }
        if self.transport.is_none() {
            problems.add(
                "BRD010",
                "it has no transport",
                "call .transport(..), for instance with SqlQueue or RabbitMq",
            );
        }
        let mut background = Vec::new();
        let waiting = self.waiting(&mut background);
        self.retention(capabilities.as_ref(), &mut background);
        background.extend(capabilities.as_ref().and_then(|unit| unit.background.clone()));
        let (Some(transport), Some(settings), true) = (self.transport, settings, problems.0.is_empty())
        else {
            return Err(BuildError { bus: self.name, problems: problems.0 });
        };
        let (sagas, retention) = self.sagas.finish(capabilities.as_ref());
        self.background.extend(retention);
        let schedule = scheduler(self.schedule.as_ref(), capabilities.as_ref());
        Ok(Bus(Arc::new(BusCore {
            records: capabilities.as_ref().and_then(|unit| unit.records.clone()),
            results: capabilities.as_ref().and_then(|unit| unit.results.clone()),
            waiting,
            background: self
                .background
                .into_iter()
                .chain(schedule.iter().map(Scheduler::background))
                .chain(background)
                .collect(),
            schedule,
            attempts: capabilities
                .and_then(|unit| unit.attempts)
                .unwrap_or_else(|| Arc::new(MemoryAttempts::default())),
            name: self.name,
            settings,
            inbox: self.inbox,
            transport,
            incoming,
            outgoing,
            handlers: self.handlers,
            failed_handlers: self.retries.failed_handlers,
            routes: self.routes,
            subscriptions: self.subscriptions,
            start_topics,
            states: self.states,
            unit_of_work: self.unit_of_work,
            outbox: self.outbox,
            idempotency: self.idempotency,
            policy: self.retries.policy,
            fail_fast: self.retries.fail_fast,
            sagas,
            codec: self.codec,
            vitals: Vitals::default(),
            sender: OnceCell::new(),
        })))
    }

    /// Configuration over code, remembering who said what.
    fn effective(&mut self, problems: &mut Problems) -> Option<Settings> {
        let config = std::mem::take(&mut self.config);
        let code = self.unit_of_work.as_ref().and_then(|unit| unit.commit_with_transaction());
        let mut origins = BTreeMap::new();
        let configured = config.origins.get("commit_with_transaction").cloned();
        let origin = match (config.commit_with_transaction, code) {
            (Some(_), _) => configured.unwrap_or_else(|| "configuration".to_owned()),
            (None, Some(_)) => "code".to_owned(),
            (None, None) => "default".to_owned(),
        };
        origins.insert("commit_with_transaction", origin);
        if let Some(parallelism) = config.parallelism {
            self.parallelism = parallelism.get();
        }
        self.check_schedule(config.schedule_poll_ms, problems);
        self.hang_doorbell(config.doorbell.as_deref(), problems);
        self.inbox.prefetch = config.prefetch.unwrap_or(self.inbox.prefetch);
        let batch = self.effective_batch(&config, &mut origins, problems);
        if self.parallelism == 0 || self.inbox.prefetch == 0 {
            problems.add(
                "BRD019",
                "parallelism and prefetch must be at least 1",
                "raise the one that is 0, or leave it out for its default",
            );
        }
        let dead_letters = self.retries.configure(&config, problems);
        self.inbox.attempts_max = self.retries.policy.attempts_max;
        let worker = self.effective_worker(&config, &mut origins, problems);
        Some(Settings {
            commit_with_transaction: config.commit_with_transaction.or(code).unwrap_or(false),
            parallelism: self.parallelism,
            batch,
            stop_grace: millis(config.stop_grace_ms, self.stop_grace),
            send_only: self.worker.send_only,
            worker: worker?,
            dead_letters: dead_letters?,
            origins,
        })
    }

    /// What this bus keeps in the transaction of its unit of work, besides business rows.
    fn parts_in_the_transaction(&self) -> Vec<&'static str> {
        [
            (self.outbox.is_some(), "an outbox"),
            (self.idempotency.is_some(), "idempotency"),
            (self.schedule_is_sql(), "a schedule"),
            (self.sagas.are_in_the_unit_of_work(), "sagas"),
        ]
        .into_iter()
        .filter_map(|(asked_for, part)| asked_for.then_some(part))
        .collect()
    }

    fn check_commit_timing(
        &self,
        settings: &Option<Settings>,
        capabilities: Option<&Capabilities>,
        problems: &mut Problems,
    ) {
        let parts = self.parts_in_the_transaction().join(" and ");
        if parts.is_empty() {
            return;
        }
        if capabilities.and_then(|unit| unit.database).is_none() {
            problems.add(
                "BRD013",
                format!("it has {parts}, but no SQL unit of work whose transaction could hold the rows"),
                if parts == "sagas" {
                    "call .unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true)), or .memory_sagas(..)"
                } else {
                    "call .unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true))"
                },
            );
        } else if let Some(settings) = settings
            && !settings.commit_with_transaction
        {
            let origin = &settings.origins["commit_with_transaction"];
            problems.add(
                "BRD012",
                format!(
                    "it has {parts}, but commit_with_transaction is false ({origin}): the unit of work would commit before the \
                     rows are written, and a crash in between would lose them"
                ),
                format!(
                    "set [bus.{}] commit_with_transaction = true, or call .commit_with_transaction(true) on its unit of work",
                    self.name
                ),
            );
        }
    }

    fn check_handlers(&self, capabilities: Option<&Capabilities>, problems: &mut Problems) {
        if self.handlers.is_empty() && !self.worker.send_only {
            problems.add(
                "BRD011",
                "it has no handler",
                "call .handler(..), or .send_only() for a bus that only sends",
            );
        }
        self.check_send_only(problems);
        for (name, handler) in self.retries.failed_handlers.iter() {
            if !self.handlers.iter().any(|(handled, _)| handled == name) {
                problems.add(
                    "BRD011",
                    format!(
                        "handler {} is for failed messages {name:?}, and nobody handles the message",
                        handler.type_name()
                    ),
                    "add a handler of the message itself with .handler(..)",
                );
            }
        }
        let provided = Provided { states: &self.states, unit_of_work: capabilities, saga: None };
        for (name, handler) in self.handlers.iter().chain(self.retries.failed_handlers.iter()) {
            for missing in handler.check(&provided).err().unwrap_or_default() {
                problems.add(
                    "BRD014",
                    format!("handler {} of message {name:?}", handler.type_name()),
                    missing,
                );
            }
        }
    }
}

//! What the worker notes about itself, and [`Health`] is made from. One lock that is held for a few instructions.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{BusState, Health, LastError, TaskHealth};
use crate::{limits, worker::breaker::Circuit};

/// The signs of life of one bus, through all its starts.
#[derive(Debug, Default)]
pub(crate) struct Vitals(Mutex<Signs>);

#[derive(Debug, Default)]
struct Signs {
    state: BusState,
    starts: u64,
    beat: Option<Instant>,
    circuit: Circuit,
    /// When each message under way was taken, by a number that only grows: the first is the oldest.
    in_flight: BTreeMap<u64, Instant>,
    taken: u64,
    handled: u64,
    failed: u64,
    receive_failures: u64,
    last_error: Option<Noted>,
    tasks: Vec<Task>,
}

#[derive(Debug)]
struct Noted {
    text: String,
    at: Instant,
}

#[derive(Debug)]
struct Task {
    name: &'static str,
    running: bool,
    restarts: u64,
    last_error: Option<Noted>,
}

/// What became of a delivery.
pub(crate) enum Ended {
    Handled,
    Failed(String),
    /// It comes again, and nothing was wrong.
    Later,
}

impl Vitals {
    fn signs(&self) -> MutexGuard<'_, Signs> {
        // Every change is one assignment or one call: a panic in between leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot(&self, bus: &str, parallelism: usize) -> Health {
        let signs = self.signs();
        let age = |at: &Instant| at.elapsed();
        let paused = signs.state == BusState::Running && signs.circuit != Circuit::Closed;
        Health {
            bus: bus.to_owned(),
            state: if paused { BusState::Paused } else { signs.state },
            circuit: signs.circuit,
            starts: signs.starts,
            heartbeat_age: signs.beat.as_ref().map(age),
            in_flight: signs.in_flight.len(),
            parallelism,
            oldest_in_flight: signs.in_flight.first_key_value().map(|(_, at)| age(at)),
            youngest_in_flight: signs.in_flight.last_key_value().map(|(_, at)| age(at)),
            handled: signs.handled,
            failed: signs.failed,
            receive_failures: signs.receive_failures,
            last_error: signs.last_error.as_ref().map(Noted::show),
            background: signs.tasks.iter().map(Task::show).collect(),
        }
    }

    /// A run begins; `None` when one is under way. Whatever ends it, the guard notes it.
    pub(crate) fn begin(&self) -> Option<Run<'_>> {
        let mut signs = self.signs();
        if !matches!(signs.state, BusState::Stopped | BusState::Crashed) {
            return None;
        }
        signs.state = BusState::Starting;
        signs.starts += 1;
        signs.circuit = Circuit::Closed;
        signs.receive_failures = 0;
        signs.beat = Some(Instant::now());
        Some(Run { vitals: self, failed: false })
    }

    pub(crate) fn running(&self) {
        let mut signs = self.signs();
        signs.state = BusState::Running;
        signs.beat = Some(Instant::now());
    }

    pub(crate) fn stopping(&self) {
        self.signs().state = BusState::Stopping;
    }

    /// A sign of life, `silence` ago. An older one than is known already changes nothing.
    pub(crate) fn beat(&self, silence: Duration) {
        let now = Instant::now();
        let at = now.checked_sub(silence).unwrap_or(now);
        let mut signs = self.signs();
        signs.beat = signs.beat.max(Some(at));
    }

    pub(crate) fn circuit(&self, circuit: Circuit) {
        self.signs().circuit = circuit;
    }

    /// A delivery was taken. The number is for [`Vitals::left`].
    pub(crate) fn entered(&self) -> u64 {
        let mut signs = self.signs();
        signs.taken += 1;
        signs.receive_failures = 0;
        let number = signs.taken;
        signs.in_flight.insert(number, Instant::now());
        number
    }

    pub(crate) fn left(&self, number: u64, ended: Ended) {
        let mut signs = self.signs();
        signs.in_flight.remove(&number);
        match ended {
            Ended::Handled => signs.handled += 1,
            Ended::Later => {}
            Ended::Failed(text) => {
                signs.failed += 1;
                signs.last_error = Some(Noted::new(text));
            }
        }
    }

    pub(crate) fn receive_failed(&self, error: &impl ToString) {
        let mut signs = self.signs();
        signs.receive_failures += 1;
        signs.last_error = Some(Noted::new(error.to_string()));
    }

    pub(crate) fn receive_works(&self) {
        self.signs().receive_failures = 0;
    }

    /// These run beside the worker; each is known by its place in the list.
    pub(crate) fn tasks(&self, names: impl Iterator<Item = &'static str>) {
        let mut signs = self.signs();
        let known = std::mem::take(&mut signs.tasks);
        let restarts = |name| known.iter().find(|task| task.name == name).map_or(0, |task| task.restarts);
        signs.tasks = names
            .map(|name| Task { name, running: true, restarts: restarts(name), last_error: None })
            .collect();
    }

    pub(crate) fn task_restarted(&self, place: usize) {
        if let Some(task) = self.signs().tasks.get_mut(place) {
            task.running = true;
            task.restarts += 1;
        }
    }

    pub(crate) fn task_ended(&self, place: usize, error: Option<&dyn std::fmt::Display>) {
        if let Some(task) = self.signs().tasks.get_mut(place) {
            task.running = false;
            task.last_error = error.map(|error| Noted::new(error.to_string())).or(task.last_error.take());
        }
    }
}

/// A run of a bus. Dropped without a result it was cancelled, or panicked.
pub(crate) struct Run<'a> {
    vitals: &'a Vitals,
    failed: bool,
}

impl Run<'_> {
    pub(crate) fn failed(mut self, error: &impl ToString) {
        self.vitals.signs().last_error = Some(Noted::new(error.to_string()));
        self.failed = true;
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let mut signs = self.vitals.signs();
        let crashed = self.failed || std::thread::panicking();
        signs.state = if crashed { BusState::Crashed } else { BusState::Stopped };
        signs.circuit = Circuit::Closed;
        signs.tasks.iter_mut().for_each(|task| task.running = false);
    }
}

impl Noted {
    fn new(mut text: String) -> Self {
        let mut end = text.len().min(limits::ERROR_TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        Self { text, at: Instant::now() }
    }

    fn show(&self) -> LastError {
        LastError { text: self.text.clone(), age: self.at.elapsed() }
    }
}

impl Task {
    fn show(&self) -> TaskHealth {
        TaskHealth {
            name: self.name,
            running: self.running,
            restarts: self.restarts,
            last_error: self.last_error.as_ref().map(Noted::show),
        }
    }
}

//! What is told about a transaction while it goes on: the lines of the transaction log, the metrics, the monitor, and the circuit
//! breakers. It looks at every step of the core, and changes nothing.
//!
//! The lines are on the target `transactions`: what went well at the level debug, what did not at warn and above.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use metrics::{counter, histogram};
use serde_json::json;

use super::{
    breaker::Tickets,
    core::{Ack, Answer, Decision, Input, Outcome, Phase, State},
    ids::{Gid, ResourceId},
    label::Label,
    log::{BranchRecord, heuristic_status},
    measures,
    monitor::TransactionMonitor,
};

/// How far the transaction is, for whoever watches.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    New,
    Running,
    Over,
}

/// Watches one transaction.
pub(super) struct Watch {
    id: String,
    label: Label,
    participants: Vec<(String, ResourceId)>,
    monitor: Option<TransactionMonitor>,
    /// What the circuit breakers let through: of everything, and of single databases.
    tickets: Tickets,
    stage: Stage,
    phase_began: Instant,
    phase: Option<&'static str>,
    prepared: Option<Instant>,
    /// After it was prepared for so long without a decision, it is said aloud.
    slow_after: Duration,
    /// The branches that did not answer, or could not be opened.
    troubled: BTreeSet<usize>,
    /// Whether the log did not do what it was asked.
    log_troubled: bool,
}

impl Watch {
    /// Of a transaction of this process; recovery has no monitor and no tickets.
    pub(super) fn new(
        gid: Gid,
        label: &Label,
        records: impl Iterator<Item = BranchRecord>,
        slow_after: Duration,
    ) -> Self {
        let now = Instant::now();
        Self {
            id: gid.to_string(),
            label: label.clone(),
            participants: records.map(|record| (record.name, record.resource)).collect(),
            monitor: None,
            tickets: Vec::new(),
            stage: Stage::New,
            phase_began: now,
            phase: None,
            prepared: None,
            slow_after,
            troubled: BTreeSet::new(),
            log_troubled: false,
        }
    }

    pub(super) fn reporting(mut self, monitor: &TransactionMonitor, tickets: Tickets) -> Self {
        (self.monitor, self.tickets) = (Some(monitor.clone()), tickets);
        self
    }

    fn kind(&self) -> String {
        self.label.kind.clone().unwrap_or_else(|| "unnamed".to_owned())
    }

    fn name(&self, at: usize) -> &str {
        self.participants.get(at).map_or("?", |(name, _)| name)
    }

    /// The branch could not be opened.
    pub(super) fn not_opened(&mut self, at: usize) {
        self.troubled.insert(at);
    }

    /// A step was taken.
    pub(super) fn look(&mut self, state: &State, input: Input) {
        if self.stage == Stage::Over {
            return;
        }
        match input {
            Input::Begin | Input::Recorded(true) if state.phase == Phase::Active => self.started(),
            Input::Recorded(false) => self.log_troubled = self.label.name.is_none(),
            Input::Voted(at, answer) => {
                let promised = matches!(answer, Answer::Prepared | Answer::ReadOnly);
                self.said("Prepare", "prepare", at, promised);
                if answer == Answer::Unknown {
                    self.troubled.insert(at);
                }
            }
            Input::LastAnswered(Some(Decision::Commit)) => {
                if let Some(at) = state.branches.iter().position(|b| b.kind == super::core::BranchKind::Last)
                {
                    self.said("Commit", "commit", at, true);
                }
            }
            Input::Acked(at, ack) => self.acked(state, at, ack),
            Input::Decided(None) => self.log_troubled = true,
            _ => {}
        }
        self.turned(state);
        if let Phase::Ended(outcome) = state.phase {
            self.ended(state, outcome);
        }
    }

    fn started(&mut self) {
        self.stage = Stage::Running;
        let details = json!({
            "name": self.label.name, "type": self.label.kind, "metadata": self.label.metadata,
            "participants": self.participants.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        });
        tracing::debug!(target: "transactions", "Transaction {} started. Details: {details}", self.id);
        if let Some(monitor) = &self.monitor {
            monitor.start_transaction(&self.id, &self.kind(), details);
        }
    }

    /// One line, one duration.
    fn said(&self, what: &str, operation: &'static str, at: usize, well: bool) {
        let (name, id) = (self.name(at), &self.id);
        if well {
            tracing::debug!(target: "transactions", "{what} for participant {name} in transaction {id} succeeded");
        } else {
            tracing::warn!(target: "transactions", "{what} for participant {name} in transaction {id} failed");
        }
        let success = if well { "true" } else { "false" };
        let labels = [("participant_id", name.to_owned()), ("operation", operation.to_owned())];
        let labels = labels.into_iter().chain([("success", success.to_owned())]).collect::<Vec<_>>();
        histogram!(measures::PARTICIPANT_DURATION, &labels).record(self.phase_began.elapsed());
    }

    fn acked(&mut self, state: &State, at: usize, ack: Ack) {
        let (what, operation) = match state.decision {
            Some(Decision::Commit) => ("Commit", "commit"),
            _ => ("Rollback", "rollback"),
        };
        self.said(what, operation, at, ack == Ack::Done);
        if ack == Ack::Later {
            self.troubled.insert(at);
        }
    }

    /// Notes how long the phase took that is over.
    fn turned(&mut self, state: &State) {
        let phase = match state.phase {
            Phase::Recording => Some("begin"),
            Phase::Preparing => Some("prepare"),
            Phase::PreCommitting => Some("pre_commit"),
            Phase::AskingLast | Phase::Deciding(_) => Some("decide"),
            Phase::Committing => Some("commit"),
            Phase::RollingBack => Some("rollback"),
            _ => None,
        };
        if phase == self.phase {
            return;
        }
        if let Some(over) = self.phase {
            histogram!(measures::PHASE_DURATION, "phase" => over).record(self.phase_began.elapsed());
        }
        if let (Some(monitor), Some(phase)) = (&self.monitor, phase) {
            monitor.record_event(&self.id, &format!("{phase}_start"), json!({}));
        }
        (self.phase, self.phase_began) = (phase, Instant::now());
        if state.phase == Phase::Prepared {
            self.prepared.get_or_insert(self.phase_began);
        }
        if state.decision.is_some()
            && let Some(prepared) = self.prepared.take()
        {
            let took = prepared.elapsed();
            histogram!(measures::PREPARED_DURATION).record(took);
            if took > self.slow_after {
                tracing::warn!(target: "transactions", transaction = %self.id, ?took, "branches were prepared for long before it was decided");
            }
        }
    }

    fn ended(&mut self, state: &State, outcome: Outcome) {
        self.stage = Stage::Over;
        let pending: Vec<&str> = state.pending().map(|at| self.name(at)).collect();
        let (status, error) = match outcome {
            Outcome::Committed => ("committed", None),
            Outcome::Aborted => ("rolled_back", Some("aborted")),
            Outcome::InDoubt => ("in_doubt", Some("in_doubt")),
            Outcome::Heuristic(heuristic) => (heuristic_status(heuristic), Some("heuristic")),
        };
        if let Outcome::Heuristic(_) = outcome {
            counter!(measures::HEURISTICS, "kind" => status).increment(1);
        }
        if outcome == Outcome::Committed && !pending.is_empty() && self.monitor.is_some() {
            counter!(measures::PARTIAL_COMMITS).increment(1);
            tracing::error!(
                target: "transactions",
                "PARTIAL COMMIT FAILURE in transaction {}: {} of {} participants have not confirmed it ({}); the decision stands, and \
                 recovery commits them",
                self.id, pending.len(), self.participants.len(), pending.join(", "),
            );
        }
        tracing::debug!(target: "transactions", "Transaction {} completed with status: {status}", self.id);
        self.close(error);
        let of: BTreeMap<_, _> =
            self.participants.iter().enumerate().map(|(at, part)| (at, &part.1)).collect();
        let troubled: BTreeSet<&ResourceId> =
            self.troubled.iter().filter_map(|at| of.get(at).copied()).collect();
        let all_well = troubled.is_empty() && !self.log_troubled;
        for (resource, ticket) in std::mem::take(&mut self.tickets) {
            let well = resource.as_ref().map_or(all_well, |resource| !troubled.contains(resource));
            if well { ticket.succeeded() } else { ticket.failed() }
        }
    }

    /// Ends the record of the monitor.
    fn close(&self, error: Option<&str>) {
        let Some(monitor) = &self.monitor else { return };
        histogram!(measures::PARTICIPANTS, "type" => self.kind()).record(self.participants.len() as f64);
        // Nothing is active that never began.
        drop(monitor.complete_transaction(&self.id, error));
    }

    /// It is left prepared to whoever knows its name: here it is over, and went well.
    pub(super) fn left(&mut self) {
        self.stage = Stage::Over;
        if let Some(monitor) = &self.monitor {
            monitor.record_event(&self.id, "left_prepared", json!({}));
        }
        self.close(None);
        std::mem::take(&mut self.tickets).into_iter().for_each(|(_, ticket)| ticket.succeeded());
    }
}

/// Whoever is dropped undecided is not active any more: recovery has it.
impl Drop for Watch {
    fn drop(&mut self) {
        if self.stage == Stage::Running {
            self.close(Some("left"));
        }
    }
}

//! Carries one saga on, as far as this process gets with it: the shell around the core.
//!
//! Called for each saga that this process has taken. Everything is saved before it is done; when a save fails, or somebody else has
//! taken the saga over, this ends, and whoever has the next turn goes on from what was saved.

use std::{
    collections::BTreeMap,
    future::Future,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use serde_json::Value;

use super::{
    core::{Answer, Direction, Effect, Input, Outcome, State, step},
    definition::Defined,
    error::OrchestrationError,
    handler::{Call, Fault},
    log::{Save, SavedStep, Stored, Then, Turn},
    measures,
    orchestrator::Shared,
};
use crate::{
    distributed::crash,
    error::{Error, panic_text},
    limits,
    pipeline::retry::jitter,
    retry::shortened,
};

/// How far this process came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It is over.
    Over(Outcome),
    /// It goes on after this.
    Pause(Duration),
    /// A human has to look.
    Help,
}

pub(super) struct Drive {
    shared: Arc<Shared>,
    defined: Arc<Defined>,
    turn: Turn,
    state: State,
    /// What the log has.
    saved: State,
    data: Arc<str>,
    outputs: Arc<BTreeMap<String, Value>>,
    /// Outputs that are not saved yet, and what each step said last.
    fresh: Vec<Option<Value>>,
    said: Vec<Option<String>>,
    /// What an operator should know.
    error: Option<String>,
    deadline: Option<Instant>,
    /// Until when nobody else takes the saga.
    ours_until: Instant,
    /// Whether its steps are those of the definition.
    fits: bool,
}

impl Drive {
    /// `taken` is when the log was asked for the turn.
    pub(super) fn new(
        shared: Arc<Shared>,
        defined: Arc<Defined>,
        (turn, stored): (Turn, Stored),
        taken: Instant,
    ) -> Self {
        let outputs = stored.steps.iter().cloned().zip(stored.outputs);
        let steps = stored.steps.len();
        let names = defined.steps.iter().map(|step| &*step.name);
        Self {
            fits: stored.steps.iter().map(String::as_str).eq(names),
            ours_until: taken + shared.lease(Duration::ZERO),
            shared,
            defined,
            turn,
            saved: stored.state.clone(),
            state: stored.state,
            data: stored.data.into(),
            outputs: Arc::new(outputs.filter_map(|(name, output)| Some((name, output?))).collect()),
            fresh: vec![None; steps],
            said: vec![None; steps],
            error: stored.error,
            deadline: stored.time_left.map(|left| taken + left),
        }
    }

    pub(super) async fn run(mut self) -> Result<Left, OrchestrationError> {
        crash::point("claimed");
        if !self.fits {
            self.error = Some(format!(
                "its steps are not those of saga {:?} version {} here: give the definition a version of its own",
                self.defined.name, self.defined.version
            ));
            self.save(Then::AskForHelp).await?;
            self.alert(None);
            return Ok(Left::Help);
        }
        let mut effects = self.next(Input::Resume);
        loop {
            let (mut answer, mut left) = (None, None);
            let hold = self.shared.lease(self.time_of(&effects));
            for effect in effects {
                match effect {
                    Effect::Hold => self.save(Then::Hold(hold)).await?,
                    Effect::Pause(pause) => {
                        self.save(Then::Pause(pause)).await?;
                        left = Some(Left::Pause(pause));
                    }
                    Effect::Finish(outcome) => {
                        crash::point("finishing");
                        if outcome == Outcome::Completed {
                            self.error = None;
                        }
                        self.save(Then::Finish(outcome)).await?;
                        left = Some(Left::Over(outcome));
                    }
                    Effect::AskForHelp => {
                        self.save(Then::AskForHelp).await?;
                        left = Some(Left::Help);
                    }
                    Effect::Alert(at) => self.alert(Some(at)),
                    Effect::Act(at) => answer = Some(self.act(at).await),
                    Effect::Compensate(at) => answer = Some(self.compensate(at).await),
                    Effect::Settle(at) => answer = Some(self.settle(at).await),
                }
            }
            match (left, answer) {
                (Some(left), _) => return Ok(left),
                (None, Some(answer)) => effects = self.next(answer),
                (None, None) => {
                    return Err(OrchestrationError::Log(Error::new("nothing follows, and it is not over")));
                }
            }
        }
    }

    /// What follows from an input, and from the time.
    fn next(&mut self, input: Input) -> Vec<Effect> {
        let overdue = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let mut inputs = Vec::new();
        inputs.extend(overdue.then_some(Input::Overdue));
        inputs.extend(self.shared.closing.is_cancelled().then_some(Input::Stop));
        inputs.push(input);
        let mut effects = Vec::new();
        for input in inputs {
            (self.state, effects) = step(&self.defined.plan, self.state.clone(), input, jitter());
        }
        if self.state.direction != self.saved.direction && self.error.is_none() {
            self.error = Some(match self.blame(input) {
                Some(why) => why,
                None if overdue => "its deadline has passed".to_owned(),
                None => "a step could not be done".to_owned(),
            });
        }
        for effect in &effects {
            if let Effect::Alert(at) = effect {
                self.hangs(*at);
            }
        }
        effects
    }

    /// Adds to what an operator should know.
    fn hangs(&mut self, at: usize) {
        let why = self.why_stuck(at);
        let known = self.error.take().filter(|known| !known.contains(&why));
        let all = known.map_or_else(|| why.clone(), |known| format!("{known}; {why}"));
        self.error = Some(shortened(&all, limits::ORCHESTRATION_ERROR_BYTES_MAX));
    }

    fn why_stuck(&self, at: usize) -> String {
        let what = match self.state.direction {
            Direction::Forward => "cannot be done",
            Direction::Back => "cannot be undone",
        };
        let said = self.said[at].as_deref().unwrap_or("its process died in every attempt");
        format!("step {:?} {what}: {said}", &*self.defined.steps[at].name)
    }

    /// Why it goes back.
    fn blame(&self, input: Input) -> Option<String> {
        let at = match input {
            Input::Acted(at, answer) if answer != Answer::Done => at,
            Input::Settled(at, Some(false)) => at,
            Input::Resume => {
                self.saved.steps.iter().position(|step| step.status == super::core::StepStatus::Started)?
            }
            _ => return None,
        };
        let said = self.said[at]
            .clone()
            .unwrap_or_else(|| "its process died, and nobody knows whether it was done".to_owned());
        Some(format!("step {:?}: {said}", &*self.defined.steps[at].name))
    }

    /// How long the work among these effects may take.
    fn time_of(&self, effects: &[Effect]) -> Duration {
        let time = |effect: &Effect| match effect {
            Effect::Act(at) | Effect::Compensate(at) | Effect::Settle(at) => {
                Some(self.defined.steps[*at].timeout)
            }
            _ => None,
        };
        effects.iter().find_map(time).unwrap_or_default()
    }

    async fn save(&mut self, then: Then) -> Result<(), OrchestrationError> {
        let asked = Instant::now();
        if asked >= self.ours_until {
            // A process that was frozen for long: what it knows may be forgotten everywhere else.
            let now = self.shared.log.load(self.turn.saga).await?;
            if now.is_none_or(|now| now.epoch != self.turn.epoch) {
                return Err(OrchestrationError::Fenced(self.turn.saga));
            }
        }
        let changed = (0..self.state.steps.len())
            .filter(|at| self.state.steps[*at] != self.saved.steps[*at] || self.said[*at].is_some());
        let steps =
            changed.map(|at| SavedStep { at, output: self.fresh[at].clone(), error: self.said[at].clone() });
        let save = Save { state: &self.state, steps: steps.collect(), error: self.error.as_deref(), then };
        self.shared.log.save(self.turn, &save).await?;
        if let Then::Hold(lease) = then {
            self.ours_until = asked + lease;
        }
        self.saved = self.state.clone();
        self.fresh.fill(None);
        Ok(())
    }

    fn call(&self, at: usize, attempt: u32) -> Call {
        Call {
            saga: self.turn.saga,
            step: Arc::clone(&self.defined.steps[at].name),
            attempt,
            data: Arc::clone(&self.data),
            outputs: Arc::clone(&self.outputs),
        }
    }

    async fn act(&mut self, at: usize) -> Input {
        let call = self.call(at, self.state.steps[at].attempts);
        crash::point_of("act", &call.step);
        let handler = Arc::clone(&self.defined.steps[at].handler);
        let answer = match self.attempt(at, "action", handler.act(&call)).await {
            Ok(output) => {
                self.keep(at, output);
                Answer::Done
            }
            Err(answer) => answer,
        };
        crash::point_of("acted", &call.step);
        Input::Acted(at, answer)
    }

    async fn compensate(&mut self, at: usize) -> Input {
        let call = self.call(at, self.state.steps[at].compensations);
        crash::point_of("compensate", &call.step);
        let handler = Arc::clone(&self.defined.steps[at].handler);
        let answer = self.attempt(at, "compensation", handler.compensate(&call)).await;
        crash::point_of("compensated", &call.step);
        Input::Compensated(at, answer.map_or_else(|answer| answer, |()| Answer::Done))
    }

    async fn settle(&mut self, at: usize) -> Input {
        let call = self.call(at, self.state.steps[at].compensations);
        crash::point_of("settle", &call.step);
        let handler = Arc::clone(&self.defined.steps[at].handler);
        let happened = match self.attempt(at, "settle", handler.settle(&call)).await {
            Ok(Some(output)) => {
                self.keep(at, output);
                Some(true)
            }
            Ok(None) => {
                self.said[at] = Some("it had no answer, and was not done".to_owned());
                Some(false)
            }
            Err(_) => None,
        };
        crash::point_of("settled", &call.step);
        Input::Settled(at, happened)
    }

    /// What a step has returned, for those after it.
    fn keep(&mut self, at: usize, output: Value) {
        let name = self.defined.steps[at].name.to_string();
        Arc::make_mut(&mut self.outputs).insert(name, output.clone());
        self.fresh[at] = Some(output);
    }

    /// One attempt, within its time. A panic may have come at any moment, so nobody knows what it has left.
    async fn attempt<T>(
        &mut self,
        at: usize,
        what: &'static str,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Answer> {
        let (name, timeout) = (Arc::clone(&self.defined.steps[at].name), self.defined.steps[at].timeout);
        let began = Instant::now();
        let ended = tokio::time::timeout(timeout, AssertUnwindSafe(work).catch_unwind()).await;
        let done = match ended {
            Ok(Ok(Ok(done))) => Ok(done),
            Ok(Ok(Err(fault))) => Err(fault.answer()),
            Ok(Err(panic)) => {
                Err((Answer::InDoubt, Error::new(format!("it panicked: {}", panic_text(panic.as_ref())))))
            }
            Err(_) => Err((Answer::InDoubt, Error::new(format!("no answer within {timeout:?}")))),
        };
        let answer = done.as_ref().err().map_or(Answer::Done, |(answer, _)| *answer);
        self.count(&name, what, answer, began.elapsed());
        done.map_err(|(answer, error)| {
            let (saga, of) = (self.turn.saga, &self.defined.name);
            tracing::warn!(target: "sagas", %saga, name = of, step = %name, what, ?answer, %error, "a step was not done");
            self.said[at] = Some(shortened(&error.to_string(), limits::ORCHESTRATION_ERROR_BYTES_MAX));
            answer
        })
    }

    fn count(&self, step: &str, what: &'static str, answer: Answer, took: Duration) {
        let (saga, step) = (self.defined.name.clone(), step.to_owned());
        let answer = match answer {
            Answer::Done => "done",
            Answer::Failed => "failed",
            Answer::Permanent => "permanent",
            Answer::Refused => "refused",
            Answer::Busy => "busy",
            Answer::InDoubt => "in_doubt",
        };
        let (of, at) = (saga.clone(), step.clone());
        metrics::counter!(measures::ATTEMPTS, "saga" => saga, "step" => step, "what" => what, "answer" => answer).increment(1);
        metrics::histogram!(measures::ATTEMPT_DURATION, "saga" => of, "step" => at, "what" => what)
            .record(took.as_secs_f64());
    }

    /// Tells people that a step hangs, or that the saga as a whole does.
    fn alert(&self, at: Option<usize>) {
        let why = match at {
            Some(at) => {
                let (saga, step) = (self.defined.name.clone(), self.defined.steps[at].name.to_string());
                metrics::counter!(measures::STUCK, "saga" => saga, "step" => step).increment(1);
                self.why_stuck(at)
            }
            None => self.error.clone().unwrap_or_default(),
        };
        let saga = self.turn.saga;
        tracing::error!(target: "sagas", %saga, name = self.defined.name, why, "a saga needs a human: barid-relay saga show {saga}");
        if let Some(hook) = &self.shared.settings.on_alert {
            hook(saga, &why);
        }
    }
}

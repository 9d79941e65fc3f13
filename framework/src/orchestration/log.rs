//! Where orchestrated sagas are kept, for whoever carries them out.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::{
    core::{Direction, Outcome, State},
    error::OrchestrationError,
    handler::SagaId,
};

/// A saga that is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it is not started yet"]
pub struct NewSaga {
    pub(crate) id: SagaId,
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) data: String,
    pub(crate) steps: Vec<String>,
    pub(crate) deadline: Option<Duration>,
}

impl NewSaga {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> SagaId {
        self.id
    }
}

/// Whether a start was the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It was started now.
    Now,
    /// A saga with this id was there.
    Before,
}

/// The right to go on with a saga: good until somebody else takes it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Which saga.
    pub saga: SagaId,
    /// One more than the one before had.
    pub epoch: i64,
}

/// A saga as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its id.
    pub id: SagaId,
    /// Its name.
    pub name: String,
    /// The version of its definition.
    pub version: u32,
    /// What it was started with.
    pub data: String,
    /// As the table spells it.
    pub status: String,
    /// What an operator should know.
    pub error: Option<String>,
    /// Whose turn it was last.
    pub epoch: i64,
    /// Whether somebody goes on with it now.
    pub held: bool,
    /// How much time it has left to go forward, zero when there is none. By the clock of the database.
    pub time_left: Option<Duration>,
    /// How far it is.
    pub state: State,
    /// The names of its steps.
    pub steps: Vec<String>,
    /// What its steps have returned.
    pub outputs: Vec<Option<Value>>,
}

impl Stored {
    /// How it ended, when it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        [Outcome::Completed, Outcome::Compensated].into_iter().find(|outcome| outcome.as_str() == self.status)
    }
}

/// What follows a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Whoever saves it goes on, and nobody else for so long.
    Hold(Duration),
    /// Whoever comes first goes on after this.
    Pause(Duration),
    /// It is over.
    Finish(Outcome),
    /// A human has to look.
    AskForHelp,
}

impl Then {
    /// The status of the saga, as the table spells it.
    #[must_use]
    pub fn status(self, direction: Direction) -> &'static str {
        match (self, direction) {
            (Self::Finish(outcome), _) => outcome.as_str(),
            (Self::AskForHelp, _) => MANUAL,
            (_, Direction::Forward) => "running",
            (_, Direction::Back) => "compensating",
        }
    }
}

/// The status of a saga that waits for a human.
pub const MANUAL: &str = "requires_manual_intervention";

/// One step as it is to be saved.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedStep {
    /// Its place.
    pub at: usize,
    /// What it has returned, if that is new.
    pub output: Option<Value>,
    /// What its last attempt said.
    pub error: Option<String>,
}

/// How far somebody came. The steps that are not named have not changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Save<'a> {
    /// The state.
    pub state: &'a State,
    /// Its steps that have changed.
    pub steps: Vec<SavedStep>,
    /// What an operator should know.
    pub error: Option<&'a str>,
    /// What follows.
    pub then: Then,
}

/// Where sagas are kept. All times are by its own clock.
#[async_trait]
pub trait SagaLog: Send + Sync + 'static {
    /// Writes down that a saga is to be done, unless one of this id is there.
    ///
    /// # Errors
    /// Nobody knows whether it was.
    async fn start(&self, saga: &NewSaga) -> Result<Started, OrchestrationError>;

    /// Up to `count` sagas that are due, of these names and versions, the longest due first.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn due(&self, defined: &[(String, u32)], count: u32) -> Result<Vec<SagaId>, OrchestrationError>;

    /// Takes one saga, if it is due and nobody has it, so that nobody else does for `lease`.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn take(
        &self,
        id: SagaId,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<(Turn, Stored)>, OrchestrationError>;

    /// One saga.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn load(&self, id: SagaId) -> Result<Option<Stored>, OrchestrationError>;

    /// Saves how far it came, all of it or nothing.
    ///
    /// # Errors
    /// [`OrchestrationError::Fenced`] when somebody else has taken it over; others when nobody knows whether it was saved.
    async fn save(&self, turn: Turn, save: &Save<'_>) -> Result<(), OrchestrationError>;
}

/// What becomes of sagas that are over.
#[async_trait]
pub trait SagaCare: SagaLog {
    /// Up to `count` sagas that ended longer ago than this.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn finished(&self, count: u32, kept_for: Duration) -> Result<Vec<Stored>, OrchestrationError>;

    /// Forgets a saga that is over.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn purge(&self, id: SagaId) -> Result<(), OrchestrationError>;

    /// Names and versions of sagas that are due for longer than `late` and that none of these definitions fits.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn stranded(
        &self,
        defined: &[(String, u32)],
        late: Duration,
    ) -> Result<Vec<(String, u32)>, OrchestrationError>;
}

//! How the program ends.

use std::process::ExitCode;

use barid::{
    distributed::DistributedError,
    orchestration::OrchestrationError,
    store::{pool::ConnectError, schema::SchemaError},
};

use crate::{
    admin::AdminError, config::ConfigError, relay::RelayError, setup::SetupError, source::SourceError,
    tx::OpenError,
};

/// Shown below `--help`; the codes are those of [`Failure::code`].
pub(super) const HELP: &str = "Exit codes:
  0    done, or stopped by a signal after a clean drain
  1    a fault while working, which waiting cannot heal
  2    wrong arguments
  3    the configuration is wrong
  4    a database or a broker cannot be reached, or refuses
  5    the schema is missing, changed, or newer than this program
  6    no message, no transaction, or no saga, is what was asked for
  7    the transaction is decided otherwise, not prepared, not over, or not the databases' alone; the saga is over, under way, or its
       step is not stuck: nothing was changed
  8    doctor found something that has to be repaired
  130  stopped by a second signal, without a drain";

/// Why the program did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the configuration is wrong:\n{0}")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Relay(#[from] RelayError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("{0}")]
    Usage(String),
    #[error("source {source_name}: no such message is parked: {selection}")]
    NothingParked { source_name: String, selection: String },
    #[error("source {source_name}: nothing in the archive is what was asked for: {selection}")]
    NothingArchived { source_name: String, selection: String },
    #[error(
        "no source has message {id}: it was never committed, or it was published and is not kept any more (looked in {sources})"
    )]
    Unknown { id: uuid::Uuid, sources: String },
    #[error(
        "{messages} of {of} messages were replayed and are in the outbox; then {cause}; run it again for the others"
    )]
    HalfReplayed {
        messages: i64,
        of: i64,
        #[source]
        cause: SourceError,
    },
    #[error("{0} of the findings above are problems")]
    Problems(usize),
    #[error("source {source_name}: {cause}")]
    Transaction {
        source_name: String,
        #[source]
        cause: DistributedError,
    },
    #[error("source {source_name}: {cause}")]
    Saga {
        source_name: String,
        #[source]
        cause: OrchestrationError,
    },
    #[error(
        "transaction {transaction} has a mixed outcome: a branch had ended in another way than was decided; see `barid-relay tx show`, \
         compare the databases, repair them by hand, and forget it"
    )]
    Mixed { transaction: String },
    #[error("source {source_name}: no transaction is called {called:?}")]
    NoTransaction { source_name: String, called: String },
    #[error(transparent)]
    Participants(OpenError),
    #[error("{0} of the checks above failed")]
    Checks(usize, u8),
    #[error("source {0}: its relay has died; this is a defect, please report it with the log")]
    Died(String),
    #[error("{} of {of} sources failed:{}", each.len(), each.iter().map(|one| format!("\n  {one}")).collect::<String>())]
    Sources { each: Vec<Failure>, of: usize },
    #[error("signals cannot be received, or the terminal fails: {0}")]
    Signals(#[from] std::io::Error),
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Setup(error) => Self::Setup(error),
            OpenError::Log { source_name, cause } => Self::Transaction { source_name, cause },
            other => Self::Participants(other),
        }
    }
}

impl Failure {
    pub(super) fn code(&self) -> ExitCode {
        ExitCode::from(self.number())
    }

    /// Of everything that failed of so many sources.
    pub(super) fn of_all(mut each: Vec<Self>, of: usize) -> Result<(), Self> {
        match each.pop() {
            None => Ok(()),
            Some(only) if of == 1 => Err(only),
            Some(last) => {
                each.push(last);
                Err(Self::Sources { each, of })
            }
        }
    }

    fn number(&self) -> u8 {
        match self {
            Self::Sources { each, .. } => each.iter().map(Self::number).max().unwrap_or(1),
            Self::Config(_) => 3,
            Self::Participants(OpenError::NotOurs { .. }) => 7,
            Self::Participants(_) => 3,
            Self::Setup(error) => setup(error),
            Self::Connect(error) => connect(error),
            Self::Schema(_) => 5,
            Self::Checks(_, worst) => *worst,
            Self::NoTransaction { .. } => 6,
            Self::Transaction { cause, .. } => transaction(cause),
            Self::Saga { cause, .. } => saga(cause),
            Self::Relay(RelayError::Sink { .. }) => 4,
            Self::Usage(_) => 2,
            Self::Source(_) | Self::HalfReplayed { .. } => 4,
            Self::Admin(AdminError::Bind { .. }) => 1,
            Self::Admin(_) => 3,
            Self::NothingParked { .. } | Self::NothingArchived { .. } | Self::Unknown { .. } => 6,
            Self::Problems(_) => 8,
            Self::Relay(_) | Self::Died(_) | Self::Signals(_) | Self::Mixed { .. } => 1,
        }
    }
}

pub(super) fn setup(error: &SetupError) -> u8 {
    match error {
        SetupError::Connect { cause, .. } => connect(cause),
        SetupError::Transport { .. } | SetupError::Source(_) => 4,
        SetupError::Schema { .. } => 5,
        _ => 3,
    }
}

fn transaction(error: &DistributedError) -> u8 {
    use DistributedError as E;
    match error {
        E::NotFound(_) => 6,
        E::AlreadyCommitted { .. }
        | E::AlreadyRolledBack { .. }
        | E::NotPrepared { .. }
        | E::StillOpen { .. }
        | E::Denied(_) => 7,
        E::NoReason { .. } | E::BadName(_) => 2,
        E::UnknownResource { .. } => 3,
        E::Log(_) | E::InDoubt { .. } | E::Branch { .. } => 4,
        _ => 1,
    }
}

fn saga(error: &OrchestrationError) -> u8 {
    use OrchestrationError as E;
    match error {
        E::NotFound(_) => 6,
        E::Over { .. } | E::Working { .. } | E::Refused { .. } | E::Fenced(_) => 7,
        E::NoReason { .. } => 2,
        E::Unknown(_) | E::Log(_) => 4,
        _ => 1,
    }
}

fn connect(error: &ConnectError) -> u8 {
    match error {
        ConnectError::Refused { .. } | ConnectError::Untrusted { .. } | ConnectError::Unreachable { .. } => 4,
        _ => 3,
    }
}

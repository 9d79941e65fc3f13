//! `barid-relay saga`: orchestrated sagas in an operator's hands.
//!
//! Changes rows and calls nobody: what is to be tried again, the processes of the application try. Each change has a reason, which is
//! written down in the transaction that changes it.

use std::{sync::Arc, time::Duration};

use barid::{
    distributed::{Principal, Which},
    orchestration::{
        OrchestrationError, SagaBook, SagaFilter, SagaId,
        book::{ByHand, by_hand},
    },
    store::orchestration::any::saga_book,
};
use clap::{Args, Subcommand};

use super::{
    Failure,
    on::{Because, On},
};
use crate::{parked::words, setup};

mod output;

/// What one list shows where nothing else is said.
const LIMIT: u32 = 50;

/// Entries of the audit that `show` has.
const AUDITED: u32 = 50;

/// Shown below `barid-relay saga --help`.
pub(super) const HELP: &str = "Orchestrated sagas are kept in the database of a source. An ID is that of the saga, or the text that the \
application made it from.

Nothing here is needed as long as an orchestrator runs in the application and what it does succeeds in the end. What is left for people \
is in the status requires_manual_intervention:
  barid-relay saga list --status requires_manual_intervention
  barid-relay saga show order-4711
  barid-relay saga retry order-4711 --reason 'the card service is back'
  barid-relay saga skip order-4711 refund --reason 'refunded by hand, see ticket 12'";

#[derive(Debug, Args)]
pub(super) struct Saga {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists sagas: those that are not over, the oldest first.
    List {
        #[command(flatten)]
        on: On,
        /// Those that are over instead, the newest first.
        #[arg(long, conflicts_with = "all")]
        finished: bool,
        /// Both.
        #[arg(long)]
        all: bool,
        /// Of this name.
        #[arg(long)]
        name: Option<String>,
        /// In this status: running, compensating, completed, compensated or requires_manual_intervention.
        #[arg(long)]
        status: Option<String>,
        /// Started longer ago than this: 30s, 15m, 2h or 7d.
        #[arg(long, value_name = "AGE", value_parser = words::age)]
        older_than: Option<Duration>,
        /// At most so many.
        #[arg(long, default_value_t = LIMIT, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
    },
    /// Shows everything about one saga: its steps, what they said, and who did what.
    Show {
        #[command(flatten)]
        on: On,
        /// Its id, or the text that it was made from.
        saga: String,
    },
    /// Tries again what is stuck, with all its attempts before it; a saga that only waits for its next try goes on now.
    Retry {
        #[command(flatten)]
        changing: Changing,
    },
    /// Says that a step which is stuck was done by hand, or, when the saga goes back, undone by hand. The saga goes on without it.
    Skip {
        #[command(flatten)]
        changing: Changing,
        /// The name of the step.
        step: String,
    },
}

/// A change: to which saga, and why.
#[derive(Debug, Args)]
struct Changing {
    #[command(flatten)]
    on: On,
    /// Its id, or the text that it was made from.
    saga: String,
    #[command(flatten)]
    because: Because,
}

pub(super) async fn saga(saga: Saga) -> Result<(), Failure> {
    match saga.command {
        Command::List { on, finished, all, name, status, older_than, limit } => {
            let which = match (finished, all) {
                (_, true) => Which::All,
                (true, _) => Which::Finished,
                _ => Which::Open,
            };
            let filter = SagaFilter { which, name, status, older_than, count: limit };
            let desk = Desk::open(&on).await?;
            let found = desk.book.list(&filter).await.map_err(|error| desk.failed(error))?;
            output::list(&found, limit, on.output);
            Ok(())
        }
        Command::Show { on, saga } => show(&on, &saga).await,
        Command::Retry { changing } => change(&changing, &ByHand::Retry).await,
        Command::Skip { changing, step } => change(&changing, &ByHand::Skip(step)).await,
    }
}

async fn show(on: &On, called: &str) -> Result<(), Failure> {
    let (desk, id) = (Desk::open(on).await?, id(called));
    let found = desk.book.show(id, AUDITED).await.map_err(|error| desk.failed(error))?;
    let found = found.ok_or_else(|| desk.failed(OrchestrationError::NotFound(id)))?;
    output::show(&found, on.output);
    Ok(())
}

async fn change(changing: &Changing, what: &ByHand) -> Result<(), Failure> {
    let (desk, id) = (Desk::open(&changing.on).await?, id(&changing.saga));
    let who = Principal::new(&changing.because.by);
    let changed =
        by_hand(&*desk.book, id, what, &who, &changing.because.reason, changing.because.dry_run).await;
    let changed = changed.map_err(|error| desk.failed(error))?;
    output::changed(id, what, &changed, changing.because.dry_run, changing.on.output);
    Ok(())
}

/// The sagas of one source.
struct Desk {
    source: String,
    book: Arc<dyn SagaBook>,
}

impl Desk {
    async fn open(on: &On) -> Result<Self, Failure> {
        let config = on.config()?;
        let (name, source) = on.source(&config)?;
        let pool = setup::database(name, source).await?;
        Ok(Self { source: name.clone(), book: saga_book(&pool) })
    }

    fn failed(&self, cause: OrchestrationError) -> Failure {
        Failure::Saga { source_name: self.source.clone(), cause }
    }
}

/// The id that is meant.
fn id(called: &str) -> SagaId {
    called.parse().unwrap_or_else(|_| SagaId::of(called))
}

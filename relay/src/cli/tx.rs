//! `barid-relay tx`: distributed transactions in an operator's hands.
//!
//! By hand nobody can do what recovery could not: a decision is made by the same compare-and-set, the opposite of one that stands is
//! refused, and each has a reason that is written down before anything is done.

use std::time::Duration;

use barid::distributed::{
    BranchId, DistributedError, Forget, Gid, Principal, TransactionDetail, TransactionFilter, Which,
    core::{Decision, Outcome},
};
use clap::{Args, Subcommand};

use super::{
    Failure,
    on::{Because, On},
};
use crate::{
    config::Config,
    parked::words,
    tx::{Missing, Transactions, check},
};

mod output;

/// What one list shows where nothing else is said.
const LIMIT: u32 = 50;

/// Entries of the audit that `show` has.
const AUDITED: u32 = 50;

/// Shown below `barid-relay tx --help`.
pub(super) const HELP: &str = "A source whose database has a decision log is the home of distributed transactions. The other databases are \
[resource.NAME] with a url, under the names that the application gave them and with its roles.

Nothing here is needed as long as recovery runs in the application: it aborts what nobody decides, and completes what is decided. What \
is left for people:
  barid-relay tx check                            whether every database is set up for it
  barid-relay tx list                             what is not over, the oldest first
  barid-relay tx show 018f2c5e-7b1a-7c3d-9e4f-0123456789ab
  barid-relay tx resolve order-4711 --abort --dry-run --reason 'the other side was rolled back'
  barid-relay tx resolve order-4711 --abort --reason 'the other side was rolled back'
  barid-relay tx forget order-4711 --reason 'compared and repaired by hand'";

#[derive(Debug, Args)]
pub(super) struct Tx {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists transactions: those that are not over, the oldest first.
    List {
        #[command(flatten)]
        on: On,
        /// Those that are over instead, the newest first.
        #[arg(long, conflicts_with = "all")]
        finished: bool,
        /// Both.
        #[arg(long)]
        all: bool,
        /// In this status, for instance requires_manual_intervention or heuristic_mixed.
        #[arg(long)]
        status: Option<String>,
        /// Begun longer ago than this: 30s, 15m, 2h or 7d.
        #[arg(long, value_name = "AGE", value_parser = words::age)]
        older_than: Option<Duration>,
        /// At most so many.
        #[arg(long, default_value_t = LIMIT, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
    },
    /// Shows everything about one transaction: its branches, what happened, who did what, and what the databases say.
    Show {
        #[command(flatten)]
        on: On,
        /// Its id, or its name.
        transaction: String,
    },
    /// Decides a transaction that nobody decided, or carries out at once what is decided.
    ///
    /// The opposite of a decision that stands is refused. So is committing one whose branches are not all known to be prepared.
    Resolve {
        #[command(flatten)]
        changing: Changing,
        /// Commits it.
        #[arg(long, conflicts_with = "abort", required_unless_present = "abort")]
        commit: bool,
        /// Rolls it back.
        #[arg(long)]
        abort: bool,
    },
    /// Removes what is kept of a transaction that is over.
    ///
    /// Recovery does so after some days; this is for one with a mixed outcome that you have repaired, so that nobody looks at it again.
    Forget {
        #[command(flatten)]
        changing: Changing,
        /// Also one that is not over: it is tried once more and then given up, with what is left. For branches whose database is gone
        /// for good.
        #[arg(long)]
        give_up: bool,
    },
    /// Checks every database that takes part: versions, settings, slots, roles and rights, poolers, Galera.
    Check {
        #[command(flatten)]
        on: On,
    },
}

/// A change: to which transaction, and why.
#[derive(Debug, Args)]
struct Changing {
    #[command(flatten)]
    on: On,
    /// Its id, or its name.
    transaction: String,
    #[command(flatten)]
    because: Because,
}

pub(super) async fn tx(tx: Tx) -> Result<(), Failure> {
    match tx.command {
        Command::List { on, finished, all, status, older_than, limit } => {
            let which = match (finished, all) {
                (_, true) => Which::All,
                (true, _) => Which::Finished,
                _ => Which::Open,
            };
            list(&on, &TransactionFilter { which, name: None, status, older_than, count: limit }).await
        }
        Command::Show { on, transaction } => show(&on, &transaction).await,
        Command::Resolve { changing, commit, .. } => {
            resolve(&changing, if commit { Decision::Commit } else { Decision::Abort }).await
        }
        Command::Forget { changing, give_up } => {
            forget(&changing, if give_up { Forget::GiveUp } else { Forget::Finished }).await
        }
        Command::Check { on } => examine(&on).await,
    }
}

async fn list(on: &On, filter: &TransactionFilter) -> Result<(), Failure> {
    let desk = on.open().await?;
    let found = desk.all.coordinator.list(filter).await.map_err(|error| desk.failed(error))?;
    let figures = desk.all.coordinator.figures().await.map_err(|error| desk.failed(error))?;
    output::list(&found, &figures, filter.count, on.output);
    Ok(())
}

async fn show(on: &On, called: &str) -> Result<(), Failure> {
    let (desk, found) = on.open().await?.on(called, Missing::Pass).await?;
    let mut prepared = Vec::new();
    for branch in &found.branches {
        let id = BranchId {
            coordinator: desk.all.coordinator.id(),
            gid: found.transaction.gid,
            ordinal: branch.ordinal,
        };
        prepared.push(desk.all.is_prepared(&id, &branch.resource).await);
    }
    let gid = found.transaction.gid.to_string();
    let audited = desk.all.coordinator.audited(Some(&gid), AUDITED).await;
    output::show(&found, &prepared, &audited.map_err(|error| desk.failed(error))?, on.output);
    Ok(())
}

async fn resolve(changing: &Changing, decision: Decision) -> Result<(), Failure> {
    let (desk, found) = changing.on.open().await?.on(&changing.transaction, Missing::Refuse).await?;
    let gid = found.transaction.gid;
    let coordinator = &desk.all.coordinator;
    if changing.because.dry_run {
        let would = coordinator.may_resolve(gid, decision).await.map_err(|error| desk.failed(error))?;
        output::would_resolve(&would, decision, changing.on.output);
        return Ok(());
    }
    let resolved = coordinator.resolve(&changing.who(), gid, decision, &changing.because.reason).await;
    let resolved = resolved.map_err(|error| desk.failed(error))?;
    output::resolved(&found.transaction, &resolved, changing.on.output);
    match resolved.outcome {
        Outcome::Heuristic(_) => Err(Failure::Mixed { transaction: gid.to_string() }),
        _ => Ok(()),
    }
}

async fn forget(changing: &Changing, how: Forget) -> Result<(), Failure> {
    let missing = if how == Forget::GiveUp { Missing::Pass } else { Missing::Refuse };
    let (desk, found) = changing.on.open().await?.on(&changing.transaction, missing).await?;
    let gid = found.transaction.gid;
    let coordinator = &desk.all.coordinator;
    if changing.because.dry_run {
        coordinator.may_forget(gid, how).await.map_err(|error| desk.failed(error))?;
    } else {
        let forgotten = coordinator.forget(&changing.who(), gid, how, &changing.because.reason).await;
        forgotten.map_err(|error| desk.failed(error))?;
    }
    output::forgotten(&found.transaction, changing.because.dry_run, changing.on.output);
    Ok(())
}

async fn examine(on: &On) -> Result<(), Failure> {
    let config = on.config()?;
    let (name, source) = on.source(&config)?;
    let examined = check(&config, name, source).await;
    let failed = output::examined(&examined, on.output);
    match failed.iter().max() {
        None => Ok(()),
        Some(worst) => Err(Failure::Checks(failed.len(), *worst)),
    }
}

/// The transactions of one source.
struct Desk {
    config: Config,
    source: String,
    all: Transactions,
}

impl On {
    async fn open(&self) -> Result<Desk, Failure> {
        let config = self.config()?;
        let (name, source) = self.source(&config)?;
        let all = Transactions::open(name, source).await?;
        Ok(Desk { source: name.clone(), all, config })
    }
}

impl Changing {
    fn who(&self) -> Principal {
        Principal::new(&self.because.by)
    }
}

impl Desk {
    fn failed(&self, cause: impl Into<DistributedError>) -> Failure {
        Failure::Transaction { source_name: self.source.clone(), cause: cause.into() }
    }

    /// By its id, or by its name: the one that has it, or the last that had it.
    async fn find(&self, called: &str) -> Result<TransactionDetail, Failure> {
        let coordinator = &self.all.coordinator;
        let gid = match called.parse::<Gid>() {
            Ok(gid) => Some(gid),
            Err(_) => {
                let found = coordinator.find(called).await.map_err(|error| self.failed(error))?;
                found.map(|found| found.gid)
            }
        };
        let found = match gid {
            Some(gid) => coordinator.show(gid).await.map_err(|error| self.failed(error))?,
            None => None,
        };
        found.ok_or_else(|| Failure::NoTransaction {
            source_name: self.source.clone(),
            called: called.to_owned(),
        })
    }

    /// One transaction, with the databases that take part in it.
    async fn on(self, called: &str, missing: Missing) -> Result<(Self, TransactionDetail), Failure> {
        let found = self.find(called).await?;
        let all = self.all.of(&self.config, &found, missing).await?;
        Ok((Self { all, ..self }, found))
    }
}

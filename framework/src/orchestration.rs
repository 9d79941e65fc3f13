//! Orchestrated sagas: steps in several databases and services, done one after the other, and undone when one of them fails.
//!
//! For work that crosses databases without holding locks in them: each step commits by itself, and readers may see what is undone
//! later. A saga is declared as a [`SagaDefinition`], started by its id, and carried out by an [`Orchestrator`], of whichever process
//! has its turn; what was begun, done and undone is in a database, so that another process goes on when one dies.
//!
//! What it is not: a process manager, which is [`crate::saga`]. That one is state that *messages* move, in handlers of a bus; it
//! decides nothing by itself and undoes nothing. An orchestrated saga has a plan: it calls its steps itself, in its order, tries them
//! again, and knows how each is undone. Nor is it a distributed transaction ([`crate::distributed`]), in which nobody sees a half.
//!
//! # What is promised
//!
//! * A step's effect happens once at most: in a database its marker commits with its rows, so that a second attempt finds it, and an
//!   attempt that arrives after its compensation is refused.
//! * A step that may have been done is undone: one that ran out of time, whose answer was lost, or whose process died.
//! * Compensation is as durable as what it undoes. It goes past what cannot be undone, which then waits for a human
//!   (`requires_manual_intervention`), and is not forgotten.
//! * After the pivot there is only forward.
//!
//! ```no_run
//! use barid::orchestration::{Orchestrator, SagaDefinition, SagaId, SqlSagaLog, Step, StepContext, StepDatabase};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Transfer { from: i64, to: i64, cents: i64 }
//!
//! # async fn doc(home: sqlx::SqlitePool, giro: sqlx::SqlitePool, savings: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
//! let (giro, savings) = (StepDatabase::new(giro), StepDatabase::new(savings));
//! let debit = giro
//!     .work(|cx: StepContext<Transfer>, db| Box::pin(async move {
//!         let debit = "UPDATE account SET cents = cents - $1 WHERE id = $2 AND cents >= $1";
//!         let done = sqlx::query(debit).bind(cx.cents).bind(cx.from).execute(&mut *db).await?;
//!         if done.rows_affected() == 1 { Ok(()) } else { Err(barid::Error::permanent("not enough money")) }
//!     }))
//!     .undo(|cx, db| Box::pin(async move {
//!         let credit = "UPDATE account SET cents = cents + $1 WHERE id = $2";
//!         sqlx::query(credit).bind(cx.cents).bind(cx.from).execute(&mut *db).await?;
//!         Ok(())
//!     }));
//! let credit = savings.work(|cx: StepContext<Transfer>, db| Box::pin(async move {
//!     let credit = "UPDATE account SET cents = cents + $1 WHERE id = $2";
//!     sqlx::query(credit).bind(cx.cents).bind(cx.to).execute(&mut *db).await?;
//!     Ok(())
//! }));
//! let transfer = SagaDefinition::new("transfer", 1).step(Step::new("debit", debit)).pivot(Step::new("credit", credit));
//!
//! let orchestrator = Orchestrator::builder(SqlSagaLog::new(home)).saga(&transfer).build()?;
//! let saga = transfer.instance(SagaId::of("transfer-4711"), &Transfer { from: 1, to: 2, cents: 10_00 })?;
//! let ended = orchestrator.execute(&saga).await?;
//! println!("{ended:?}");
//! # Ok(()) }
//! ```

pub mod book;
pub mod core;
mod definition;
mod drive;
mod error;
mod external;
mod handler;
pub mod log;
pub mod measures;
mod orchestrator;
mod runner;

pub use book::{SagaBook, SagaDetail, SagaEntry, SagaFilter, StepEntry};
pub use definition::{SagaDefinition, Step};
pub use error::OrchestrationError;
pub use external::ExternalWork;
pub use handler::{Abilities, Call, Fault, SagaId, StepContext, StepHandler, Work};
pub use log::{NewSaga, Started};
pub use orchestrator::{Ended, Orchestrator, OrchestratorBuilder, OrchestratorSettings, SagaAlertHook};

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub use crate::store::orchestration::{
    SqlSagaLog,
    work::{SqlWork, StepDatabase},
};
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub(crate) use handler::{Takes, encoded};

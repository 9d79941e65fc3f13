//! The transaction context of one message: what happens around the commit, in stages, once.
//!
//! ```text
//! before_commit   saga state, stored replies, outbox rows
//! commit          exactly one: the unit of work's COMMIT
//! after_commit    sends of a bus without outbox, the doorbell
//! ack             then close
//! ```
//!
//! A failure before or in `commit` means rollback, nack, close. A failure in `after_commit` is reported and nacks, and rolls
//! nothing back. A failing rollback, ack, nack or close action is reported through the error actions and the rest still
//! run. The retry step of the pipeline completes the context; handlers and steps register actions.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt, future::BoxFuture};

use crate::error::{Error, Result, panic_text};

type Action = Box<dyn FnOnce() -> BoxFuture<'static, Result<()>> + Send>;
pub(crate) type Items = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;
type ErrorAction = Box<dyn FnMut(&Error) + Send>;

/// The stages that actions can be registered for, in the order in which they can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Writes that belong into the unit of work's transaction.
    BeforeCommit,
    /// Last before the unit of work's COMMIT, for effects that are not SQL: a failure still rolls everything back.
    Commit,
    /// The unit of work is durable; nothing can be rolled back any more.
    AfterCommit,
    /// Undoing, when the message failed before or in its commit.
    Rollback,
    /// The message is done.
    Ack,
    /// The message will be delivered again.
    Nack,
    /// Always, last.
    Close,
}

const STAGES: usize = Stage::Close as usize + 1;

/// Registers actions around the commit of one message. Cheap to clone.
///
/// Effects that are not SQL join the message through it:
///
/// ```no_run
/// # async fn doc(cx: barid::Context) -> barid::Result<()> {
/// let path = std::path::PathBuf::from("invoice.pdf");
/// let undo = path.clone();
/// cx.transaction().on_rollback(async move || Ok(tokio::fs::remove_file(undo).await?))?;
/// tokio::fs::write(&path, b"..").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct TransactionContext(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    completed: bool,
    /// From here on there is nothing to roll back: the unit of work commits or has committed.
    committing: bool,
    /// From here on the transport has the answer.
    settled: bool,
    actions: [Vec<Action>; STAGES],
    on_error: Vec<ErrorAction>,
    items: Items,
}

/// An action was added to a context that is already being completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the transaction context is completed: {0:?} actions must be added before the handlers return")]
pub struct Completed(pub Stage);

impl TransactionContext {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State::default())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Registering cannot leave the lists broken, so a panic elsewhere does not matter.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers an action for a stage. Actions of a stage run in the order in which they were registered.
    ///
    /// # Errors
    /// [`Completed`] when the handlers have returned.
    pub fn on<F, Fut>(&self, stage: Stage, action: F) -> Result<(), Completed>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let mut state = self.state();
        if state.completed {
            return Err(Completed(stage));
        }
        state.actions[stage as usize].push(Box::new(move || Box::pin(action())));
        Ok(())
    }

    /// A write into the unit of work's transaction, before its commit. A failure rolls back.
    ///
    /// # Errors
    /// As [`TransactionContext::on`].
    pub fn before_commit<F, Fut>(&self, action: F) -> Result<(), Completed>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.on(Stage::BeforeCommit, action)
    }

    /// An effect that is not SQL, right before the unit of work's COMMIT. A failure of it or of the COMMIT rolls back, so
    /// register its undoing with [`TransactionContext::on_rollback`].
    ///
    /// # Errors
    /// As [`TransactionContext::on`].
    pub fn on_commit<F, Fut>(&self, action: F) -> Result<(), Completed>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.on(Stage::Commit, action)
    }

    /// Something that may only happen once the commit is durable. A failure nacks and rolls nothing back.
    ///
    /// # Errors
    /// As [`TransactionContext::on`].
    pub fn after_commit<F, Fut>(&self, action: F) -> Result<(), Completed>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.on(Stage::AfterCommit, action)
    }

    /// Undoing of an effect that is not SQL.
    ///
    /// # Errors
    /// As [`TransactionContext::on`].
    pub fn on_rollback<F, Fut>(&self, action: F) -> Result<(), Completed>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.on(Stage::Rollback, action)
    }

    /// The message was acknowledged, or the broker was asked to and failed (which is reported).
    ///
    /// # Errors
    /// As [`TransactionContext::on`].
    pub fn on_ack<F, Fut>(&self, action: F) -> Result<(), Completed>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.on(Stage::Ack, action)
    }

    /// The message goes back to the transport.
    ///
    /// # Errors
    /// As [`TransactionContext::on`].
    pub fn on_nack<F, Fut>(&self, action: F) -> Result<(), Completed>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.on(Stage::Nack, action)
    }

    /// Cleaning up, whatever happened.
    ///
    /// # Errors
    /// As [`TransactionContext::on`].
    pub fn on_close<F, Fut>(&self, action: F) -> Result<(), Completed>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.on(Stage::Close, action)
    }

    /// Sees every error of completion that changes nothing any more: failing rollback, ack, nack and close actions, and
    /// failures after the commit. May be added at any time.
    pub fn on_error(&self, action: impl FnMut(&Error) + Send + 'static) {
        self.state().on_error.push(Box::new(action));
    }

    /// Keeps a value with the message, one of each type, for later handlers, steps and actions.
    pub fn insert<T: Send + Sync + 'static>(&self, item: T) {
        self.state().items.insert(TypeId::of::<T>(), Arc::new(item));
    }

    /// The value of this type that was kept with the message.
    #[must_use]
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let item = self.state().items.get(&TypeId::of::<T>()).cloned()?;
        item.downcast().ok()
    }

    /// The values that are kept with the message.
    pub(crate) fn items(&self) -> Items {
        self.state().items.clone()
    }

    /// Keeps values that another context of the same message had.
    pub(crate) fn keep(&self, items: &Items) {
        self.state().items.extend(items.iter().map(|(id, item)| (*id, Arc::clone(item))));
    }

    /// From now on nothing can be registered.
    pub(crate) fn complete(&self) {
        self.state().completed = true;
    }

    /// From now on, and until it is known that the commit failed, a dropped context does not run its rollback actions.
    pub(crate) fn committing(&self, yes: bool) {
        self.state().committing = yes;
    }

    /// From now on a dropped context runs only its close actions.
    pub(crate) fn settled(&self) {
        self.state().settled = true;
    }

    /// The next action of a stage. One by one: a context that is dropped while one runs still has the others.
    fn next(&self, stage: Stage) -> Option<Action> {
        let mut state = self.state();
        let actions = &mut state.actions[stage as usize];
        (!actions.is_empty()).then(|| actions.remove(0))
    }

    /// Runs the actions of a stage until one fails.
    pub(crate) async fn run(&self, stage: Stage) -> Result<()> {
        while let Some(action) = self.next(stage) {
            carry_out(action).await?;
        }
        Ok(())
    }

    /// Runs all actions of a stage; failures go to the error actions.
    pub(crate) async fn run_all(&self, stage: Stage) {
        while let Some(action) = self.next(stage) {
            if let Err(error) = carry_out(action).await {
                self.report(&error.context(format!("in the {stage:?} stage")));
            }
        }
    }

    /// Shows an error to the error actions and the log.
    pub(crate) fn report(&self, error: &Error) {
        tracing::error!(%error, "completing a message");
        // Taken out while they run: an error action may use the context.
        let mut actions = std::mem::take(&mut self.state().on_error);
        for action in &mut actions {
            action(error);
        }
        let mut state = self.state();
        actions.append(&mut state.on_error);
        state.on_error = actions;
    }
}

/// Runs one action. A panic is its error: what has been committed stays committed, and the other actions still run.
async fn carry_out(action: Action) -> Result<()> {
    let outcome = AssertUnwindSafe(async { action().await }).catch_unwind().await;
    outcome.unwrap_or_else(|panic| Err(Error::new(format!("it panicked: {}", panic_text(panic.as_ref())))))
}

/// A context that was dropped before its end (a cancelled task): the actions that are still due run all the same, and those
/// that would undo a commit do not. The unit of work needs none of them, it ends with its connection.
impl Drop for State {
    fn drop(&mut self) {
        let due: &[Stage] = match (self.committing, self.settled) {
            (_, true) => &[Stage::Close],
            (true, false) => &[Stage::Nack, Stage::Close],
            (false, false) => &[Stage::Rollback, Stage::Nack, Stage::Close],
        };
        let mut pending = Vec::new();
        for stage in due {
            pending.append(&mut self.actions[*stage as usize]);
        }
        if pending.is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::error!(
                actions = pending.len(),
                "a message was dropped outside a runtime: its rollback actions did not run"
            );
            return;
        };
        // Bounded by the actions themselves; it reports what fails.
        runtime.spawn(async move {
            for action in pending {
                if let Err(error) = carry_out(action).await {
                    tracing::error!(%error, "rolling back a message that was dropped");
                }
            }
        });
    }
}

impl fmt::Debug for TransactionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionContext")
            .field("completed", &self.state().completed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failing_action_of_the_last_stages_is_reported_and_the_rest_still_run() {
        let context = TransactionContext::new();
        let (ran, reported) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        for n in 0..3 {
            let ran = Arc::clone(&ran);
            context
                .on_close(async move || {
                    ran.lock().unwrap().push(n);
                    if n == 1 { Err(Error::new("no")) } else { Ok(()) }
                })
                .unwrap();
        }
        let seen = Arc::clone(&reported);
        context.on_error(move |error| seen.lock().unwrap().push(error.to_string()));
        context.complete();
        context.run_all(Stage::Close).await;
        assert_eq!(*ran.lock().unwrap(), [0, 1, 2]);
        assert_eq!(*reported.lock().unwrap(), ["in the Close stage: no"]);
        assert_eq!(context.on_close(async || Ok(())), Err(Completed(Stage::Close)));
    }

    #[tokio::test]
    async fn a_dropped_context_runs_what_is_still_due() {
        const ALL: [Stage; 7] = [
            Stage::BeforeCommit,
            Stage::Commit,
            Stage::AfterCommit,
            Stage::Rollback,
            Stage::Ack,
            Stage::Nack,
            Stage::Close,
        ];
        type Prepare = fn(&TransactionContext);
        let cases: [(Prepare, &[Stage]); 4] = [
            (|_| (), &[Stage::Rollback, Stage::Nack, Stage::Close]),
            (TransactionContext::complete, &[Stage::Rollback, Stage::Nack, Stage::Close]),
            (|context| context.committing(true), &[Stage::Nack, Stage::Close]),
            (TransactionContext::settled, &[Stage::Close]),
        ];
        for (prepare, due) in cases {
            let context = TransactionContext::new();
            let (ran, mut seen) = tokio::sync::mpsc::channel(ALL.len());
            for stage in ALL {
                let ran = ran.clone();
                context.on(stage, async move || Ok(ran.send(stage).await?)).unwrap();
            }
            prepare(&context);
            drop((context, ran));
            let mut stages = Vec::new();
            while let Some(stage) = seen.recv().await {
                stages.push(stage);
            }
            assert_eq!(stages, due);
        }
    }

    #[tokio::test]
    async fn an_action_that_panics_has_failed() {
        let context = TransactionContext::new();
        context.after_commit(async || panic!("no")).unwrap();
        assert_eq!(context.run(Stage::AfterCommit).await.unwrap_err().to_string(), "it panicked: no");
    }
}

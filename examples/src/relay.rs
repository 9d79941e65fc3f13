//! The relay, and how it crashes: as a task of this process that is aborted, or as a process that is killed.

use async_trait::async_trait;

mod process;
mod task;

pub use process::RelayProcess;
pub use task::RelayTask;

/// A relay that the story can start, crash and stop.
#[async_trait]
pub trait Relays: Send {
    /// Starts one.
    ///
    /// # Errors
    /// When it cannot be started.
    async fn start(&mut self) -> anyhow::Result<()>;

    /// Ends it without any chance to tidy up, at a moment when messages are on their way, and says how many. None means that
    /// the moment was badly chosen: start one and try again.
    ///
    /// # Errors
    /// When it had ended before, or cannot be ended.
    async fn crash(&mut self) -> anyhow::Result<i64>;

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// When it ended with an error.
    async fn stop(&mut self) -> anyhow::Result<()>;
}

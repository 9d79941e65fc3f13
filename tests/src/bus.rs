//! A bus as the whole work of a process: what the binaries of this package end with.

use anyhow::Result;
use barid::BusBuilder;
use tokio::signal::unix::{SignalKind, signal};

/// Declares the queue, says "ready" on standard output, and works until SIGTERM.
///
/// # Errors
/// When the bus cannot be built, or fails.
pub async fn run_until_terminated(bus: BusBuilder) -> Result<()> {
    // First of all: who is told that it is ready may send the signal at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let bus = bus.build()?;
    bus.declare().await?;
    println!("ready");
    bus.run_until(async {
        terminate.recv().await;
    })
    .await?;
    Ok(())
}

//! Workers and hosts on real transports: parallelism, pauses, rate limit, circuit breaker, signs of life, stopping, and several
//! buses in one process.
//!
//! Every bus receives through [`faulty::Faulty`], which is the real transport until a test asks it for a fault.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

#[path = "workers/breaking.rs"]
mod breaking;
#[path = "workers/configured.rs"]
mod configured;
#[path = "workers/faulty.rs"]
mod faulty;
#[path = "workers/hosting.rs"]
mod hosting;
#[path = "workers/living.rs"]
mod living;
#[path = "workers/parallel.rs"]
mod parallel;
#[path = "workers/send_only.rs"]
mod send_only;
#[path = "workers/signals.rs"]
mod signals;
#[path = "workers/stage.rs"]
mod stage;
#[path = "workers/stopping.rs"]
mod stopping;

use std::time::Duration;

/// Longer than anything here takes when it works.
const PATIENCE: Duration = Duration::from_secs(30);

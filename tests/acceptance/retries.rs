//! Retries: durable counts, pauses, dead letters, handlers of failed messages.

#![allow(clippy::unwrap_used)] // a test

#[path = "retries/burial.rs"]
mod burial;
#[path = "retries/handling.rs"]
mod handling;
#[path = "retries/pacing.rs"]
mod pacing;
#[path = "retries/processes.rs"]
mod processes;
#[path = "retries/stage.rs"]
mod stage;

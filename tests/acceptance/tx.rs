//! Distributed transactions in an operator's hands: the real program, on what coordinators left that died.

#![allow(clippy::unwrap_used)] // a test

#[path = "tx/by_hand.rs"]
mod by_hand;
#[path = "tx/check.rs"]
mod check;
#[path = "tx/commands.rs"]
mod commands;
#[path = "tx/place.rs"]
mod place;
#[path = "tx/streams.rs"]
mod streams;

//! Who looks after distributed transactions: clean-up, decisions by hand, and what is told to people.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

mod shop;

#[path = "care/every_log.rs"]
mod every_log;
#[path = "care/guards.rs"]
mod guards;
#[path = "care/hearing.rs"]
mod hearing;
#[path = "care/left.rs"]
mod left;

//! Named transactions on real databases: begun in one process and ended in another, and everything that is refused.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

mod shop;

#[path = "named/ending.rs"]
mod ending;
#[path = "named/stages.rs"]
mod stages;

use barid::{Error, distributed::DistributedError};

/// The error of a distributed transaction inside another one.
fn told(error: &Error) -> &DistributedError {
    error.find().unwrap_or_else(|| panic!("another error: {error}"))
}

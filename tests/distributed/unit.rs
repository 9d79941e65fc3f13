//! The distributed unit of work on real databases: how it ends, what it says, and what is left.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

#[path = "unit/doubt.rs"]
mod doubt;
#[path = "unit/ends.rs"]
mod ends;
#[path = "unit/last.rs"]
mod last;
#[path = "unit/place.rs"]
mod place;

//! Effects that users of comparable systems have suffered from, one scenario each, run against us.
//!
//! `docs/known-defects.md` lists them; `listed` fails when one of the list has no test that runs.

#![allow(clippy::unwrap_used, missing_docs)] // a test

#[path = "known_defects/deferring.rs"]
mod deferring;
#[path = "known_defects/handling.rs"]
mod handling;
#[path = "known_defects/listed.rs"]
mod listed;
#[path = "known_defects/relaying.rs"]
mod relaying;
#[path = "known_defects/repeats.rs"]
mod repeats;
#[path = "known_defects/sagas.rs"]
mod sagas;
#[path = "known_defects/stage.rs"]
mod stage;
#[path = "known_defects/starting.rs"]
mod starting;

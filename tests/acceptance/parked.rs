//! Parked messages in an operator's hands: the real program on real databases, with messages that cannot be delivered until
//! somebody repairs what is wrong.

#![allow(clippy::unwrap_used)] // a test

#[path = "parked/by_hand.rs"]
mod by_hand;
#[path = "parked/commands.rs"]
mod commands;
#[path = "parked/load.rs"]
mod load;
#[path = "parked/many.rs"]
mod many;

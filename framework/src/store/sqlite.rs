//! SQLite.

mod attempts;
mod batch;
mod distributed;
mod events;
mod examine;
mod idempotency;
mod keys;
pub mod lock;
mod orchestration;
mod results;
mod saga;
mod schedule;
pub(super) mod subscriptions;
mod text;
mod unit;

pub(super) use self::examine::examine;

//! What the example programs share: a small shop, what goes wrong in it on purpose, and a ledger that counts what became of it.
//!
//! The story is always the same. Customers send orders to a bus that writes them into a table and announces each with an
//! event; a relay carries the events from the outbox to a broker; a second bus ships what was ordered. Meanwhile messages
//! arrive twice, handlers fail and the relay crashes. Read in this order:
//!
//! | module | what |
//! |---|---|
//! | [`messages`] | what travels |
//! | [`handlers`] | the two buses: this is what you would write yourself |
//! | [`faults`] | which messages meet which misfortune |
//! | [`relay`] | the relay, as a task of this process or as a process of its own, and how it crashes |
//! | [`story`] | starts everything, crashes the relay, waits for the end |
//! | [`journal`] | what really happened, written outside every unit of work |
//! | [`ledger`] | counts tables: what was lost, doubled or out of order |
//!
//! The other examples show one thing each, in one file, and share only the [`workshop`].

#[macro_use]
mod sql;

pub mod arguments;
pub mod faults;
pub mod handlers;
pub mod journal;
pub mod ledger;
pub mod messages;
pub mod place;
pub mod relay;
pub mod shop;
pub mod story;
pub mod workshop;

pub use arguments::Arguments;
pub use ledger::Ledger;
pub use place::Place;
pub use shop::Shop;
pub use story::Story;
pub use workshop::Workshop;

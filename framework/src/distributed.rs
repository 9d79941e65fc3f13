//! Work that does not fit into one database: a unit of work whose branches in several databases end the same way.
//!
//! The decision is one row that is written once, in the transaction of the home database together with its business rows, outbox
//! rows and idempotency record; every other database holds a prepared branch until that row says how it ends. [`core`] is the
//! protocol as a pure function, and everything else carries out what it says.
//!
//! What it does not do: make the branches visible at the same instant. They become visible one after the other, and a reader who
//! looks at two databases at once can see half of a transaction that has committed.

pub mod core;

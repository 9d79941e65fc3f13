//! Support for the tests that cross crates or need real servers.
//!
//! * [`servers`]: where PostgreSQL, MariaDB, RabbitMQ and Kafka are; `tests/run` starts them
//! * [`database`]: a database of its own for each test
//! * [`names`]: queue and topic names that nobody else uses
//! * [`private`]: a server for one test alone, to be killed, frozen and restarted
//! * [`proxy`]: a TCP proxy that counts round trips and loses answers on purpose, and a wire of bad quality
//! * [`process`]: a binary as a child process that can be killed
//! * [`outbox`] and [`load`]: producers that commit to an outbox while its database is being broken
//! * [`tape`]: everything that a broker got, in its order
//! * [`ledger`]: what became of the promises, with the proof that the faults happened
//! * [`rig`]: all of these around the relay's binary
//! * [`place`]: one of the three databases with an outbox, a queue behind it, and the relay's binary
//! * [`http`]: one request to the relay's admin server
//! * [`promtool()`] and [`faketime()`]: programs and libraries that are fetched when they are missing
//! * [`dice`] and [`sql`]: numbers from a seed, and one statement for three databases
//! * [`transfer`]: money that moves between three databases in one distributed transaction
//! * [`steps`]: the same in an orchestrated saga of three steps
//! * [`spread`]: the command of a bus over two databases
//! * [`walk`]: money that moves to and fro between two databases whose servers are killed
//! * [`eventually()`]: waiting for a condition, with a bound
//!
//! What is wrong with the environment panics here, with a message that says what to do: a test that cannot run fails.

pub mod database;
pub mod dice;
pub mod eventually;
pub mod http;
pub mod ledger;
pub mod load;
pub mod names;
pub mod outbox;
pub mod place;
pub mod private;
pub mod process;
pub mod proxy;
pub mod rig;
pub mod servers;
pub mod spread;
pub mod sql;
pub mod steps;
pub mod tape;
pub mod transfer;
pub mod unpacked;
pub mod walk;

pub use database::TestDatabase;
pub use eventually::eventually;
pub use private::PrivateServer;
pub use process::Process;
pub use proxy::{Proxy, Wire};
pub use unpacked::{faketime, promtool};

/// The code blocks of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The code blocks of the page about distributed transactions, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/distributed-transactions.md")]
pub struct DistributedTransactions;

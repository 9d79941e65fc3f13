//! Support for the tests that cross crates or need real servers.
//!
//! * [`servers`]: where PostgreSQL, MariaDB, RabbitMQ and Kafka are; `tests/run` starts them
//! * [`database`]: a database of its own for each test
//! * [`names`]: queue and topic names that nobody else uses
//! * [`proxy`]: a TCP proxy that counts round trips and loses answers on purpose
//! * [`process`]: a binary as a child process that can be killed
//! * [`eventually()`]: waiting for a condition, with a bound
//!
//! What is wrong with the environment panics here, with a message that says what to do: a test that cannot run fails.

pub mod database;
pub mod eventually;
pub mod names;
pub mod process;
pub mod proxy;
pub mod servers;

pub use database::TestDatabase;
pub use eventually::eventually;
pub use process::Process;
pub use proxy::Proxy;

/// The code blocks of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

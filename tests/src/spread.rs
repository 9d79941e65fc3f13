//! The command of the program `distributed-bus`, which has one effect in each of its databases.

use barid::Message;
use serde::{Deserialize, Serialize};

/// One of them.
#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "spread.over")]
pub struct Spread {
    /// Which one.
    pub n: i64,
}

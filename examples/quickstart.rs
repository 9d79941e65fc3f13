//! The quickstart: a shop, its outbox, a relay and those who ship, all in this process, with SQLite as database and broker.
//!
//! ```text
//! cargo run --release --example quickstart
//! cargo run --release --example quickstart --features postgres -- --database postgres://user:password@host/database
//! ```
//!
//! Read `src/handlers/buses.rs` next: it is the part that you would write.

use std::process::ExitCode;

use barid::SqlQueue;
use barid_examples::{
    Arguments, Place, Shop, Story, arguments::log_to_stderr, messages::Names, relay::RelayTask, story,
};
use clap::Parser;

/// Orders are placed, announced and shipped, while messages arrive twice, handlers fail and the relay crashes.
#[derive(Debug, Parser)]
struct Quickstart {
    #[command(flatten)]
    arguments: Arguments,
    /// A PostgreSQL in which the run makes a database of its own, instead of a SQLite file in a temporary folder.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    log_to_stderr();
    let Quickstart { arguments, database } = Quickstart::parse();
    let place = Place::new(database.as_deref()).await?;
    let shop = Shop::open(&place).await?;

    // The broker is a table of the same database. With RabbitMQ or Kafka only this line and the relay's sink change.
    let queue = SqlQueue::new(shop.pool.clone());
    let relay = RelayTask::new(&shop, queue.clone());
    let (messages, names) = (arguments.messages, Names::default());
    let ledger = Story { shop: shop.clone(), transport: queue, names, messages }.tell(relay).await?;

    story::finish(&ledger, &shop, place, &arguments).await
}

//! The story of the quickstart on real servers: PostgreSQL, Kafka, and the relay as a process that is killed.
//!
//! ```text
//! cargo build --release -p barid-relay
//! cargo run --release -p barid-examples --features postgres,kafka --example orders_kafka -- \
//!     --database postgres://user:password@host/database --kafka host:9092
//! ```

use std::{path::PathBuf, process::ExitCode};

use barid::Kafka;
use barid_examples::{
    Arguments, Place, Shop, Story, arguments::log_to_stderr, messages::Names, relay::RelayProcess, story,
};
use clap::Parser;

/// Orders are placed, announced through Kafka and shipped, while handlers fail and the relay is killed.
#[derive(Debug, Parser)]
struct OrdersKafka {
    #[command(flatten)]
    arguments: Arguments,
    /// A PostgreSQL in which the run makes a database of its own.
    #[arg(long, value_name = "URL", env = "BARID_TEST_POSTGRES_URL", hide_env_values = true)]
    database: String,
    /// The brokers of the Kafka cluster.
    #[arg(long, value_name = "HOST:PORT", env = "BARID_TEST_KAFKA")]
    kafka: String,
    /// The program barid-relay, when it is not beside this one.
    #[arg(long, value_name = "PATH")]
    relay: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    log_to_stderr();
    let OrdersKafka { arguments, database, kafka, relay } = OrdersKafka::parse();
    let transport = Kafka::connect(&kafka).await?;
    let place = Place::new(Some(&database)).await?;
    let shop = Shop::open(&place).await?;

    // What the relay is told: a file, and the address that holds a password from the environment.
    let sink = format!("kind = \"kafka\"\nbrokers = {kafka:?}");
    let secrets = [("BARID_RELAY__SOURCE__SHOP__URL", &*place.url)];
    let relay = RelayProcess::new(&shop, relay.as_deref(), &sink, &secrets)?;
    let (messages, names) = (arguments.messages, Names::of_this_run());
    let ledger = Story { shop: shop.clone(), transport, names, messages }.tell(relay).await?;

    story::finish(&ledger, &shop, place, &arguments).await
}

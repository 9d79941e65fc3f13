//! The story of the quickstart on real servers: PostgreSQL, RabbitMQ, and the relay as a process that is killed.
//!
//! ```text
//! cargo build --release -p barid-relay
//! cargo run --release -p barid-examples --features postgres,rabbitmq --example orders_rabbitmq -- \
//!     --database postgres://user:password@host/database --amqp amqp://user:password@host:5672/%2f
//! ```

use std::{path::PathBuf, process::ExitCode};

use barid::RabbitMq;
use barid_examples::{
    Arguments, Place, Shop, Story, arguments::log_to_stderr, messages::Names, relay::RelayProcess, story,
};
use clap::Parser;

/// Orders are placed, announced through RabbitMQ and shipped, while handlers fail and the relay is killed.
#[derive(Debug, Parser)]
struct OrdersRabbitMq {
    #[command(flatten)]
    arguments: Arguments,
    /// A PostgreSQL in which the run makes a database of its own.
    #[arg(long, value_name = "URL", env = "BARID_TEST_POSTGRES_URL", hide_env_values = true)]
    database: String,
    /// The RabbitMQ; %2f is its default virtual host.
    #[arg(long, value_name = "URL", env = "BARID_TEST_AMQP_URL", hide_env_values = true)]
    amqp: String,
    /// The program barid-relay, when it is not beside this one.
    #[arg(long, value_name = "PATH")]
    relay: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    log_to_stderr();
    let OrdersRabbitMq { arguments, database, amqp, relay } = OrdersRabbitMq::parse();
    let transport = RabbitMq::connect(&amqp).await?;
    let place = Place::new(Some(&database)).await?;
    let shop = Shop::open(&place).await?;

    // What the relay is told: a file, and addresses that hold passwords from the environment.
    let sink = r#"kind = "rabbitmq""#;
    let secrets =
        [("BARID_RELAY__SOURCE__SHOP__URL", &*place.url), ("BARID_RELAY__SINK__BROKER__URL", &*amqp)];
    let relay = RelayProcess::new(&shop, relay.as_deref(), sink, &secrets)?;
    let (messages, names) = (arguments.messages, Names::of_this_run());
    let ledger = Story { shop: shop.clone(), transport, names, messages }.tell(relay).await?;

    story::finish(&ledger, &shop, place, &arguments).await
}

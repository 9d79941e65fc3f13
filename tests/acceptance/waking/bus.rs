//! A bus in one process and a relay in another, as their configurations join them.

use barid::{
    Bus, Config, Context, Destination, Memory, Message, Outgoing, Result, Sender, SqlOutbox, SqlUnitOfWork,
    store::{AnyPool, schema},
};
use barid_relay::source::sqlite::SqliteSource;
use barid_tests::TestDatabase;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{HOUR, Working, listening, unix};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
struct Place;

async fn place(_: Place, cx: Context) -> Result<()> {
    cx.publish(Outgoing::raw("orders.placed", Some("1".into())).to(Destination::topic("orders")?).key(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_rings_at_the_relay_that_its_configuration_names() {
    let (database, folder) = (TestDatabase::sqlite().await, tempfile::tempdir().unwrap());
    schema::apply(&AnyPool::Sqlite(database.pool.clone())).await.unwrap();
    let address = unix(&folder);
    let relay =
        Working::start(SqliteSource::new("orders", database.pool.clone()), HOUR, Some(address.clone()));
    listening(&address).await;
    let network = Memory::new();
    let text = format!("[bus.orders]\ncommit_with_transaction = true\ndoorbell = \"{address}\"\n");
    let bus = Bus::builder("orders")
        .transport(network.clone())
        .unit_of_work(SqlUnitOfWork::new(database.pool.clone()))
        .outbox(SqlOutbox::new())
        .handler(place)
        .config(Config::parse(&text, "barid.toml", []).unwrap().bus("orders"))
        .build()
        .unwrap();
    bus.declare().await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (bus, stopped) = (bus.clone(), stop.clone().cancelled_owned());
        async move { bus.run_until(stopped).await }
    });
    let sender = Sender::connect(&network, "test").await.unwrap();
    for rows in 1..=3 {
        sender.send(Outgoing::new(Place).to(Destination::queue("orders").unwrap())).await.unwrap();
        relay.delivered(rows).await;
    }
    stop.cancel();
    running.await.unwrap().unwrap();
    relay.stop().await;
    database.drop_now().await;
}

#[test]
fn a_doorbell_that_cannot_be_rung_is_said_when_the_bus_is_built() {
    for (address, outbox, says) in
        [("tcp:1", true, "\"tcp:1\" is no doorbell"), ("udp:127.0.0.1:1", false, "no outbox to ring it for")]
    {
        let text = format!("[bus.orders]\ndoorbell = \"{address}\"\n");
        let mut bus = Bus::builder("orders").transport(Memory::new()).handler(place);
        if outbox {
            bus = bus.outbox(SqlOutbox::new());
        }
        let config = Config::parse(&text, "barid.toml", []).unwrap().bus("orders");
        let error = bus.config(config).build().map(drop).unwrap_err().to_string();
        assert!(error.contains("BRD017") && error.contains(says), "{error}");
    }
}

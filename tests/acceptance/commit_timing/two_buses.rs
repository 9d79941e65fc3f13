//! The setting is per bus, and the environment wins over the file over the code.

use barid::{Bus, Config, Context, Memory, Result, SqlIdempotency, SqlOutbox};

use crate::{case::Place, world::World};

const FILE: &str = "\
[bus.orders]
commit_with_transaction = true

[bus.audit]
commit_with_transaction = false
";

async fn ignore(_: Place, _: Context) -> Result<()> {
    Ok(())
}

/// The setting in force and who said so, for a bus of this name.
async fn effective(name: &str, config: &Config, code: Option<bool>) -> (bool, String) {
    let world = World::wal().await;
    let bus = Bus::builder(name).transport(Memory::new()).handler(ignore).config(config.bus(name));
    let bus = world.unit_of_work(bus, code).build().unwrap();
    let settings = bus.settings();
    (settings.commit_with_transaction, settings.origins["commit_with_transaction"].clone())
}

#[tokio::test]
async fn environment_over_file_over_code_over_default() {
    let config = |text, variable: Option<&str>| {
        let name = "BARID_BUS__ORDERS__COMMIT_WITH_TRANSACTION".to_owned();
        Config::parse(text, "barid.toml", variable.map(|value| (name, value.to_owned()))).unwrap()
    };
    let cases = [
        (config("", None), None, (false, "default")),
        (config("", None), Some(true), (true, "code")),
        (config("", None), Some(false), (false, "code")),
        (config(FILE, None), None, (true, "barid.toml:2")),
        (config(FILE, None), Some(false), (true, "barid.toml:2")),
        (
            config(FILE, Some("false")),
            Some(true),
            (false, "variable BARID_BUS__ORDERS__COMMIT_WITH_TRANSACTION"),
        ),
        (config("", Some("true")), None, (true, "variable BARID_BUS__ORDERS__COMMIT_WITH_TRANSACTION")),
    ];
    for (config, code, (value, origin)) in cases {
        let expected = (value, origin.to_owned());
        assert_eq!(effective("orders", &config, code).await, expected, "{config:?} {code:?}");
    }
}

#[tokio::test]
async fn two_buses_of_one_process_differ_by_one_file() {
    let config = Config::parse(FILE, "barid.toml", []).unwrap();
    assert_eq!(effective("orders", &config, Some(false)).await, (true, "barid.toml:2".to_owned()));
    assert_eq!(effective("audit", &config, Some(true)).await, (false, "barid.toml:5".to_owned()));

    // The same parts build with the one and not with the other, and the error says who said `false`.
    let world = World::wal().await;
    let bus = |name: &str| {
        let bus = Bus::builder(name).transport(Memory::new()).handler(ignore).config(config.bus(name));
        world
            .unit_of_work(bus, Some(true))
            .outbox(SqlOutbox::new())
            .idempotency(SqlIdempotency::new())
            .build()
    };
    assert!(bus("orders").unwrap().settings().commit_with_transaction);
    let said = bus("audit").unwrap_err().to_string();
    for part in [
        "BRD012",
        "commit_with_transaction is false (barid.toml:5)",
        "[bus.audit] commit_with_transaction = true",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

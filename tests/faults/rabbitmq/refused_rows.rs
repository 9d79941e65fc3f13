//! Rows that RabbitMQ does not take: F55, F56, F57 and the queue of F60 that was deleted.

use barid_tests::{
    Process, eventually, load, load::outbox_row, names, outbox::Posted, rig::Rig, sql, sql::Session,
};
use uuid::Uuid;

use super::*;

/// Commits two rows of a key, the first changed by `spoil`, a piece of SQL. Returns their ids.
async fn spoilt(rig: &Rig, key: i64, to: &Destination, spoil: &str) -> [Uuid; 2] {
    let mut db = Session::connect(&rig.outbox.url).await.unwrap();
    db.begin().await.unwrap();
    let first = load::insert(&mut db, Posted { key, n: 1 }, to).await.unwrap();
    let second = load::insert(&mut db, Posted { key, n: 2 }, to).await.unwrap();
    db.execute(&format!("UPDATE outbox SET {spoil} WHERE id = {}", db.id(first))).await.unwrap();
    db.execute("COMMIT").await.unwrap();
    [first, second]
}

/// Waits until both rows of a key are parked, the first with a reason that says this.
async fn parked(rig: &Rig, key: i64, says: &str) -> String {
    let (pool, of_key) = (&rig.outbox.pool, format!("FROM relay_parked WHERE aggregateid = '{key}'"));
    eventually(PATIENCE, "the row and the one behind it are parked", || async {
        sql::number(pool, &format!("SELECT count(*) {of_key}")).await.unwrap() == 2
    })
    .await;
    let poison = format!("SELECT count(*) {of_key} AND state = 'poison' AND last_error LIKE '%{says}%'");
    assert_eq!(sql::number(pool, &poison).await.unwrap(), 1, "key {key} is not parked because of {says:?}");
    format!("the first row of key {key} was parked with {says:?}, the second behind it")
}

/// What cannot be taken is parked with the row behind it; its neighbours lose nothing.
#[tokio::test]
async fn f55_f56_f57_f60_what_cannot_be_taken_costs_no_neighbour() {
    let node = Node::start("max_message_size = 65536").await;
    let rig = node.rig().await;
    let broker = RabbitMq::connect(&node.server.url).await.unwrap();
    let gone = Inbox::new(names::unique("deleted"));
    broker.declare(&gone).await.unwrap();
    let config = rig.config();
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace(&format!("{:?}", rig.tape.destination.to_string()), "\"queue:*\"");
    std::fs::write(&config, text).unwrap();
    let load = rig.load().start().await;
    let mut relay = Process::relay(["run".as_ref(), "--config".as_ref(), config.as_os_str()]);
    relay.line_with("claimed the outbox", PATIENCE).await;
    let (tape, deleted) = (rig.tape.destination.clone(), Destination::queue(&gone.queue).unwrap());
    // While it is there its rows arrive, and are gone with it.
    let mut db = Session::connect(&rig.outbox.url).await.unwrap();
    db.execute(&outbox_row(&db, Uuid::now_v7(), Posted { key: -1, n: 1 }, &deleted)).await.unwrap();
    caught_up(&rig).await;
    broker.remove(&gone).await.unwrap();
    let mut faults = Vec::new();
    for (key, what, to, spoil, says) in [
        (
            -2,
            "F55: a body above the broker's limit",
            &tape,
            "payload = convert_to(repeat('x', 70000), 'UTF8')",
            "65536",
        ),
        (-3, "F57: a name of more than 255 bytes", &tape, "type = repeat('n', 256)", "255"),
        (
            -4,
            "F57: a header name of more than 255 bytes",
            &tape,
            "headers = jsonb_build_object(repeat('h', 256), 'x')",
            "255",
        ),
        (-5, "F60: the queue was deleted", &deleted, "type = type", gone.queue.as_str()),
    ] {
        load.more(30).await;
        spoilt(&rig, key, to, spoil).await;
        faults.push(Fault::new(what, parked(&rig, key, says).await));
    }
    // What would close a channel as a property is an ordinary header of ours.
    let odd = spoilt(&rig, -6, &tape, r#"headers = '{"expiration": "abc", "user_id": "somebody"}'"#).await;
    caught_up(&rig).await;
    assert!(!rig.outbox.parked().await.iter().any(|id| odd.contains(id)), "F56: they are not properties");
    faults.push(Fault::new(
        "F56: a bad expiration and somebody else's user",
        format!("row {} arrived", odd[0]),
    ));
    load.more(30).await;
    let ledger = rig.settle(load, relay, WINDOW, faults).await;
    ledger.assert_promises();
    assert_eq!(ledger.parked, 8, "{ledger}");
}

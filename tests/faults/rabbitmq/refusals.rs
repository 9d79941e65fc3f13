//! Rows that RabbitMQ does not take, and users that it does not let in: F55 to F59.

use barid::store::AnyPool;
use barid_tests::{Process, eventually, ledger::Evidence, load::outbox_row, names, rig::Rig, sql::Session};

use super::*;

/// Inserts two rows of a key, the first changed by `spoil`, a piece of SQL. Returns their ids.
async fn spoilt(rig: &Rig, destination: &str, spoil: &str) -> [Uuid; 2] {
    let mut db = Session::connect(&rig.outbox.url).await.unwrap();
    let ids = [Uuid::now_v7(), Uuid::now_v7()];
    db.begin().await.unwrap();
    for (n, id) in (0..).zip(ids) {
        let posted = Posted { key: -1, n };
        db.execute(&outbox_row(&db, id, posted, destination)).await.unwrap();
        let key = db.id(ids[0]);
        db.execute(&format!(
            "UPDATE outbox SET aggregateid = encode(uuid_send({key}), 'hex') WHERE id = {}",
            db.id(id)
        ))
        .await
        .unwrap();
    }
    db.execute(&format!("UPDATE outbox SET {spoil} WHERE id = {}", db.id(ids[0]))).await.unwrap();
    db.execute("COMMIT").await.unwrap();
    ids
}

/// Waits until both are parked, and returns why the first one was.
async fn parked(rig: &Rig, ids: [Uuid; 2]) -> String {
    eventually(PATIENCE, "the row and the one behind it are parked", || async {
        let parked = rig.outbox.parked().await;
        ids.iter().all(|id| parked.contains(id))
    })
    .await;
    let AnyPool::Postgres(pool) = &rig.outbox.pool else { panic!("the outbox is on PostgreSQL") };
    let reason = sqlx::query_scalar("SELECT reason FROM relay_parked WHERE id = $1").bind(ids[0]);
    reason.fetch_one(pool).await.unwrap()
}

/// F55, F56, F57, F60: a row that RabbitMQ cannot take is parked with the row behind it; its neighbours lose nothing.
#[tokio::test]
async fn f55_f56_f57_f60_what_cannot_be_taken_costs_no_neighbour() {
    let node = Node::start("max_message_size = 65536").await;
    let rig = node.rig().await;
    let tape = rig.tape.destination.to_string();
    let deleted = names::unique("deleted");
    let broker = RabbitMq::connect(&node.server.url).await.unwrap();
    broker.declare(&Inbox::new(&deleted)).await.unwrap();
    let config = rig.config();
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace(&format!("destination = \"{tape}\""), "destination = \"queue:*\"");
    std::fs::write(&config, text).unwrap();
    let load = rig.load().start().await;
    let mut relay = Process::relay(["run".as_ref(), "--config".as_ref(), config.as_os_str()]);
    relay.line_with("claimed the outbox", PATIENCE).await;
    broker.remove(&Inbox::new(&deleted)).await.unwrap();
    let gone = Destination::queue(&deleted).unwrap().to_string();
    let mut faults = Vec::new();
    for (what, destination, spoil, says) in [
        (
            "F55: a body above the broker's limit",
            &tape,
            "payload = convert_to(repeat('x', 70000), 'UTF8')",
            "65536",
        ),
        ("F57: a name of more than 255 bytes", &tape, "type = repeat('n', 256)", "nnn"),
        (
            "F57: a header name of more than 255 bytes",
            &tape,
            "headers = jsonb_build_object(repeat('h', 256), 'x')",
            "hhh",
        ),
        ("F60: the queue was deleted", &gone, "type = type", deleted.as_str()),
    ] {
        load.more(30).await;
        let ids = spoilt(&rig, destination, spoil).await;
        let reason = parked(&rig, ids).await;
        assert!(reason.contains(says), "{what}: {reason}");
        faults.push(Fault::new(what, reason));
    }
    // What closes a channel when it is a property is an ordinary header of ours.
    let ids = spoilt(&rig, &tape, r#"headers = '{"expiration": "abc", "user_id": "somebody"}'"#).await;
    caught_up(&rig).await;
    assert!(!rig.outbox.parked().await.iter().any(|id| ids.contains(id)), "F56: they are not properties");
    load.more(30).await;
    let journal = load.stop().await;
    let drained = rig.drained().await;
    let (status, log) = relay.terminate(PATIENCE).await;
    assert!(status.success(), "{status}\n{}", log.join("\n"));
    let mut committed = rig.outbox.committed().await;
    committed.extend((0..).zip(ids).map(|(n, id)| (id, Posted { key: -1, n })));
    let evidence = Evidence {
        committed,
        journal,
        parked: rig.outbox.parked().await,
        left: rig.outbox.left().await,
        tape: rig.tape.read::<Posted>().await,
        window: WINDOW,
        faults,
        drained,
    };
    rig.outbox.drop_now().await;
    let ledger = evidence.ledger();
    println!("{ledger}");
    ledger.assert_promises();
}

const PASSWORD: &str = "S3CR3T-CANARY";

/// F58: the password is changed under way. The relay says so without saying it, waits, and goes on once it is right again.
#[tokio::test]
async fn f58_a_refused_login_is_waited_out_and_told_without_the_secret() {
    let node = Node::start("").await;
    node.ctl(&["add_user", "relay", PASSWORD]).await;
    node.ctl(&["set_permissions", "relay", "^$", ".*", "^$"]).await;
    let url = node.server.url.replace("guest:guest@", &format!("relay:{PASSWORD}@"));
    let rig = node.rig_with(Tape::rabbitmq(&node.server.url).await.through(&url)).await;
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    load.more(50).await;
    let refused = async {
        node.ctl(&["change_password", "relay", "another"]).await;
        node.ctl(&["close_all_connections", "fault test"]).await;
    };
    let fault = seen(&relay, "F58: the password was changed", "refused the credentials", refused).await;
    load.more(50).await;
    node.ctl(&["change_password", "relay", PASSWORD]).await;
    caught_up(&rig).await;
    assert_eq!(said(&relay, PASSWORD), 0, "a password in the log");
    let ledger = rig.settle(load, relay, WINDOW, vec![fault]).await;
    ledger.assert_promises();
}

/// F59: the permission to write is taken away. What is refused is parked with the broker's words, and nothing is lost.
#[tokio::test]
async fn f59_without_permission_rows_are_parked_with_the_reason() {
    let node = Node::start("").await;
    node.ctl(&["add_user", "relay", PASSWORD]).await;
    node.ctl(&["set_permissions", "relay", "^$", ".*", "^$"]).await;
    let url = node.server.url.replace("guest:guest@", &format!("relay:{PASSWORD}@"));
    let rig = node.rig_with(Tape::rabbitmq(&node.server.url).await.through(&url)).await;
    let load = rig.load().start().await;
    let mut relay = rig.relay_at_work().await;
    load.more(50).await;
    node.ctl(&["set_permissions", "relay", "^$", "^nothing$", "^$"]).await;
    // The node remembers permissions for a channel; a new one asks again.
    node.ctl(&["close_all_connections", "fault test"]).await;
    relay.line_with("ACCESS_REFUSED", PATIENCE).await;
    let evidence = relay.line_with("cannot be delivered: parked", PATIENCE).await;
    assert!(evidence.contains("ACCESS_REFUSED"), "{evidence}");
    let fault = Fault::new("F59: the permission was taken away", evidence);
    // One event closes the connection, others the channels.
    let ledger = rig.settle(load, relay, 4 * WINDOW, vec![fault]).await;
    ledger.assert_promises();
    assert!(ledger.parked > 0, "{ledger}");
}

//! One key whose destination takes nothing, with a backlog many times larger than the relay's memory.

use std::collections::HashSet;

use barid_tests::{
    eventually,
    outbox::{Database, Outbox},
    rig::Rig,
    sql,
};
use uuid::Uuid;

use super::*;

/// The rows of the key.
fn backlog(database: Database) -> usize {
    match database {
        Database::Postgres => 20_000,
        _ if servers::long() => 20_000,
        _ => 1_000,
    }
}

/// Commits the rows of key -1: in the outbox, and where the ledger finds them.
async fn fill(outbox: &Outbox, database: Database, destination: &Destination) {
    let rows = backlog(database);
    let (id, numbers, body) = match database {
        Database::Postgres => (
            "gen_random_uuid()",
            format!("SELECT n::bigint FROM generate_series(1, {rows}) n"),
            "convert_to('{\"key\":-1,\"n\":' || n || '}', 'UTF8')",
        ),
        Database::MariaDb => (
            "unhex(replace(uuid(), '-', ''))",
            format!("SELECT seq AS n FROM seq_1_to_{rows}"),
            "concat('{\"key\":-1,\"n\":', n, '}')",
        ),
        Database::Sqlite => (
            "randomblob(16)",
            format!(
                "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {rows}) SELECT n FROM s"
            ),
            "CAST('{\"key\":-1,\"n\":' || n || '}' AS BLOB)",
        ),
    };
    let kept = format!("INSERT INTO load_row (id, number, n) SELECT {id}, -1, n FROM ({numbers}) numbers");
    sql::execute(&outbox.pool, &kept).await.unwrap();
    let sent = format!(
        "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload) \
         SELECT id, '{destination}', 'load', '-1', 'load.posted', {body} FROM load_row WHERE number = -1 ORDER BY n"
    );
    sql::execute(&outbox.pool, &sent).await.unwrap();
}

/// A route for the key.
fn route(destination: &Destination, order: &str) -> String {
    format!("\n[[route]]\ndestination = \"{destination}\"\nsink = \"tape\"\norder = \"{order}\"\n")
}

/// How many rows of the key are in the outbox.
async fn waiting(rig: &Rig) -> usize {
    let waiting = sql::number(&rig.outbox.pool, "SELECT count(*) FROM outbox WHERE aggregateid = '-1'").await;
    usize::try_from(waiting.unwrap()).unwrap()
}

/// The key waits, a hundred others flow; then the key flows, too, in its order.
async fn blocked(node: &Node, database: Database) {
    let other = Tape::rabbitmq_classic(&node.server.url).await;
    let mut rig = node.rig_on(database, Tape::rabbitmq(&node.server.url).await).await;
    let queue = other.destination.name().to_owned();
    node.limit(&queue, r#"{"max-length":1,"overflow":"reject-publish"}"#).await;
    fill(&rig.outbox, database, &other.destination).await;
    rig.relay_lines = route(&other.destination, "strict");
    let mut load = rig.load();
    load.keys = 100;
    let load = load.start().await;
    load.more(100).await;
    let mut relay = rig.relay_at_work().await;
    let refused = relay.line_with("the broker refused the message (nack)", PATIENCE).await;
    let room = relay.line_with("has no more room", PATIENCE).await;
    for _ in 0..3 {
        load.more(100).await;
        others_flow(&rig).await;
    }
    let left = waiting(&rig).await;
    assert!(left + 10 > backlog(database), "only {left} rows of the key wait");
    node.limit(&queue, ROOM).await;
    let what = format!("{left} rows of a key waited");
    let mut faults = vec![Fault::new("a queue took nothing", refused), Fault::new(what, room)];
    eventually(PATIENCE, "the key flows again", || async { waiting(&rig).await + 300 < left }).await;
    // One row a round trip is slow. Nothing is refused any more, so many together keep the order as well.
    let (status, log) = relay.terminate(PATIENCE).await;
    assert!(status.success(), "the relay ended by {status}\n{}", log.join("\n"));
    faults.push(Fault::new("the relay was started again", status));
    rig.relay_lines = route(&other.destination, "pipelined");
    let relay = rig.relay_at_work().await;
    let journal = load.stop().await;
    rig.settle_both(Some(other), journal, relay, 0, faults).await.assert_promises();
}

/// What is committed now to the other keys leaves the outbox.
async fn others_flow(rig: &Rig) {
    let others = || sql::ids(&rig.outbox.pool, "SELECT id FROM outbox WHERE aggregateid <> '-1'");
    let now: HashSet<Uuid> = others().await.unwrap().into_iter().collect();
    let gone = || async { others().await.unwrap().iter().all(|id| !now.contains(id)) };
    eventually(PATIENCE, "the other keys flow", gone).await;
}

#[tokio::test]
async fn a_key_that_is_refused_holds_up_no_other() {
    let node = Node::start("").await;
    for database in Database::ALL {
        blocked(&node, database).await;
    }
}

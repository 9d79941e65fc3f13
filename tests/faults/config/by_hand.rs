//! Rows that somebody wrote by hand (F80), and more destinations than anybody should have (F83).

use barid_tests::{
    Process,
    ledger::Fault,
    load,
    outbox::{Database, Posted},
    rig::{PATIENCE, Rig},
    sql,
    sql::Session,
};
use uuid::Uuid;

/// Commits a row in which one column has this value, a piece of SQL.
async fn post(db: &mut Session, rig: &Rig, posted: Posted, id: Uuid, column: &str, value: &str) {
    let (key, n) = (posted.key, posted.n);
    let mut columns = vec![
        ("id", db.id(id)),
        ("destination", format!("'{}'", rig.tape.destination)),
        ("aggregatetype", "'load'".to_owned()),
        ("aggregateid", format!("'{key}'")),
        ("type", "'load.posted'".to_owned()),
        ("payload", db.bytes(&serde_json::to_vec(&posted).unwrap())),
    ];
    columns.retain(|(name, _)| *name != column);
    columns.push((column, value.to_owned()));
    let (names, values): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let row = format!("INSERT INTO load_row (id, number, n) VALUES ({}, {key}, {n})", db.id(id));
    let outbox = format!("INSERT INTO outbox ({}) VALUES ({})", names.join(", "), values.join(", "));
    db.begin().await.unwrap();
    db.execute(&row).await.unwrap();
    db.execute(&outbox).await.unwrap();
    db.execute("COMMIT").await.unwrap();
}

/// Such a row, and an ordinary one behind it. Returns their ids.
async fn spoilt(db: &mut Session, rig: &Rig, key: i64, column: &str, value: &str) -> [Uuid; 2] {
    let ids = [Uuid::now_v7(), Uuid::now_v7()];
    post(db, rig, Posted { key, n: 1 }, ids[0], column, value).await;
    post(db, rig, Posted { key, n: 2 }, ids[1], "aggregatetype", "'load'").await;
    ids
}

async fn by_hand(database: Database) {
    let rig = Rig::of(database).await;
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    let mut db = Session::connect(&rig.outbox.url).await.unwrap();
    // What makes no message that could be sent is parked, with the row behind it.
    let (mut parked, mut faults) = (Vec::new(), Vec::new());
    let hopeless = [
        (1_000, "destination", "'nowhere'", "nowhere"),
        (1_001, "destination", "'topic:nobody.routes.this'", "topic:nobody.routes.this"),
        (1_002, "destination", "'queue:a b'", "a b"),
        (1_003, "headers", "'[]'", "headers"),
        (1_004, "headers", r#"'{"a": 1}'"#, "headers"),
    ];
    for (key, column, value, _) in hopeless {
        let rows = spoilt(&mut db, &rig, key, column, value).await;
        faults.push(Fault::new(format!("a row by hand: {column} = {value}"), format!("row {}", rows[0])));
        parked.extend(rows);
    }
    // What is odd and harms nobody travels: nothing in the outbox waits for a time to come.
    let far = if database == Database::Sqlite { "253402300799000" } else { "'9999-12-31 23:59:59'" };
    for (key, column, value) in [
        (2_000, "created_at", far),
        (2_001, "tracingspancontext", "'no trace'"),
        (2_002, "headers", r#"'{"available_at": "9999-12-31"}'"#),
        (2_003, "type", "''"),
    ] {
        spoilt(&mut db, &rig, key, column, value).await;
    }
    // Without a key it waits for nobody.
    post(&mut db, &rig, Posted { key: 2_004, n: 1 }, Uuid::now_v7(), "aggregateid", "NULL").await;
    // Two rows under one id are two messages to the relay, and one to whoever looks at the id.
    let twice = Uuid::now_v7();
    post(&mut db, &rig, Posted { key: 2_005, n: 1 }, twice, "aggregatetype", "'load'").await;
    let row = load::outbox_row(&db, twice, Posted { key: 2_005, n: 1 }, &rig.tape.destination);
    db.execute(&row).await.unwrap();
    faults.push(Fault::new("two rows with one id", format!("id {twice}")));
    load.more(100).await;
    let journal = load.stop().await;
    rig.drained().await;
    let mut found = rig.outbox.parked().await;
    found.sort_unstable();
    parked.sort_unstable();
    assert_eq!(found, parked, "what was parked, and what was expected");
    for (key, column, value, says) in hopeless {
        let reason = format!(
            "SELECT count(*) FROM relay_parked WHERE aggregateid = '{key}' AND state = 'poison' \
             AND last_error LIKE '%{says}%'"
        );
        let count = sql::number(&rig.outbox.pool, &reason).await.unwrap();
        assert_eq!(count, 1, "{column} = {value}: not parked with a reason that says {says:?}");
    }
    let ledger = rig.settle_with(journal, relay, 1, faults).await;
    ledger.assert_promises();
    assert_eq!(ledger.duplicates, 1, "the row that was there twice, and no other\n{ledger}");
}

#[tokio::test]
async fn f80_rows_by_hand_on_postgres() {
    by_hand(Database::Postgres).await;
}

#[tokio::test]
async fn f80_rows_by_hand_on_mariadb() {
    by_hand(Database::MariaDb).await;
}

#[tokio::test]
async fn f80_rows_by_hand_on_sqlite() {
    by_hand(Database::Sqlite).await;
}

/// Each destination nobody routes is a cause of its own. The log and the groups of what is parked stay readable all the same.
#[tokio::test]
async fn f83_ten_thousand_destinations() {
    const DESTINATIONS: usize = 10_000;
    let rig = Rig::of(Database::Postgres).await;
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    load.more(50).await;
    let rows = format!(
        "WITH numbers AS (SELECT n::bigint FROM generate_series(1, {DESTINATIONS}) n), \
         kept AS (INSERT INTO load_row (id, number, n) SELECT gen_random_uuid(), 5000 + n, 1 FROM numbers RETURNING id, number) \
         INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload) \
         SELECT id, 'topic:t' || number, 'load', number::text, 'load.posted', '\\x' FROM kept"
    );
    sql::execute(&rig.outbox.pool, &rows).await.unwrap();
    load.more(100).await;
    let journal = load.stop().await;
    rig.drained().await;
    let parked = rig.outbox.parked().await.len();
    assert_eq!(parked, DESTINATIONS);
    let lines = relay.log().iter().filter(|line| line.contains("cannot be delivered")).count();
    assert!(lines > 0 && lines < 300, "{lines} lines about {parked} rows");
    let file = rig.config_file();
    let arguments = ["parked".as_ref(), "groups".as_ref(), "--config".as_ref(), file.as_os_str()];
    let mut groups = Process::relay(arguments);
    let status = groups.ended(PATIENCE).await;
    let shown = groups.log().len();
    assert!(status.success() && shown > 10 && shown < 500, "{status}, {shown} lines");
    let evidence = format!("{parked} rows parked, {lines} lines in the log, {shown} lines of groups");
    let faults = vec![Fault::new(format!("{DESTINATIONS} destinations"), evidence)];
    rig.settle_with(journal, relay, 0, faults).await.assert_promises();
}

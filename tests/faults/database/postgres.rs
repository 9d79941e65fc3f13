//! What PostgreSQL does to the sessions of a relay while it stays up.

use barid_tests::outbox::Outbox;
use barid_tests::{
    PrivateServer, Process, Wire, eventually,
    ledger::Fault,
    load,
    outbox::{Database, Posted},
    rig::{PATIENCE, Rig, WINDOW},
    servers, sql,
    sql::Session,
    tape::Tape,
};

use super::rounds;

const OF_THE_RELAY: &str = "datname = current_database() AND application_name = 'barid-relay'";

/// Sets something for all new sessions of the database.
async fn set(db: &mut Session, what: &str) {
    // Whatever the database says about new transactions, this session may write.
    db.execute("SET default_transaction_read_only = off").await.unwrap();
    let name = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I WHAT', current_database()); END $$";
    db.execute(&name.replace("WHAT", what)).await.unwrap();
}

/// Ends every session of the database but those that only look.
async fn end_sessions(rig: &Rig, which: &str) -> i64 {
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
         AND pid <> pg_backend_pid() AND ({which})"
    );
    sql::number(&rig.outbox.pool, &end).await.unwrap()
}

#[tokio::test]
async fn f04_sessions_are_terminated() {
    let rig = Rig::of(Database::Postgres).await;
    let load = rig.load().start().await;
    let mut relay = rig.relay_at_work().await;
    let mut faults = Vec::new();
    for _ in 0..2 * rounds() {
        load.more(100).await;
        let ended = end_sessions(&rig, "true").await;
        assert!(ended > 0, "nobody was connected");
        faults.push(Fault::new("every session was terminated", format!("{ended} sessions")));
    }
    load.more(100).await;
    relay.line_with("connecting again", PATIENCE).await;
    rig.settle(load, relay, 0, faults).await.assert_promises();
}

#[tokio::test]
async fn f08_the_primary_becomes_read_only() {
    let mut rig = Rig::of(Database::Postgres).await;
    // Long enough not to lapse meanwhile, and short enough to be renewed: nothing else is written without load.
    rig.relay_lines = "lease_ms = 60000".to_owned();
    let mut admin = Session::connect(&rig.outbox.url).await.unwrap();
    let load = rig.load().start().await;
    let mut relay = rig.relay_at_work().await;
    load.more(200).await;
    set(&mut admin, "SET default_transaction_read_only = on").await;
    end_sessions(&rig, OF_THE_RELAY).await;
    let said = relay.line_with("read-only transaction", PATIENCE).await;
    set(&mut admin, "RESET default_transaction_read_only").await;
    load.more(200).await;
    let faults = vec![Fault::new("the relay was led to a server that takes no writes (25006)", said)];
    // On a slow machine it may lapse all the same, and leaves what is in flight in doubt.
    rig.settle(load, relay, WINDOW, faults).await.assert_promises();
}

/// The address of a relay at work leads to a replica for a while, which then becomes the primary.
#[tokio::test]
async fn f08_a_replica_that_is_promoted() {
    let server = PrivateServer::postgres("").await;
    let rig = Rig::at(&server.url).await;
    let load = rig.load().start().await;
    let mut relay = rig.relay_at_work().await;
    load.more(200).await;
    server.stop().await;
    std::fs::write(server.folder().join("postgres/standby.signal"), "").unwrap();
    server.start().await;
    let said = relay.line_with("is a replica now", PATIENCE).await;
    sql::execute(&rig.outbox.pool, "SELECT pg_promote()").await.unwrap();
    load.more(200).await;
    let faults = vec![Fault::new("the address led to a replica, which was promoted", said)];
    // The lease may lapse meanwhile, and leaves what is in flight in doubt.
    rig.settle(load, relay, WINDOW, faults).await.assert_promises();
}

#[tokio::test]
async fn f09_a_replica_is_refused() {
    let server = PrivateServer::postgres("").await;
    let rig = Rig::at(&server.url).await;
    server.stop().await;
    // Recovers for ever from nobody: what a replica looks like to those who connect.
    std::fs::write(server.folder().join("postgres/standby.signal"), "").unwrap();
    server.start().await;
    let recovering = sql::number(&rig.outbox.pool, "SELECT CAST(pg_is_in_recovery() AS int)::bigint").await;
    assert_eq!(recovering.unwrap(), 1);
    let mut relay = rig.relay();
    let status = relay.ended(PATIENCE).await;
    let log = relay.log().join("\n");
    assert!(!status.success() && log.contains("is a replica"), "{status}\n{log}");
    assert!(log.contains("set [source.load] url to the primary"), "{log}");
}

#[tokio::test]
async fn f10_no_connection_is_left() {
    let server = PrivateServer::postgres("-c max_connections=20").await;
    let rig = Rig::at(&server.url).await;
    let load = rig.load().start().await;
    load.more(50).await;
    let mut taken = Vec::new();
    let refused = loop {
        match Session::connect(&server.url).await {
            Ok(session) => taken.push(session),
            Err(error) => break error.to_string(),
        }
    };
    assert!(refused.contains("too many clients"), "{refused}");
    let mut relay = rig.relay();
    let said = relay.line_with("too many clients", PATIENCE).await;
    drop(taken);
    relay.line_with("claimed the outbox", PATIENCE).await;
    load.more(50).await;
    let faults = vec![Fault::new("the server had no connection left (53300)", said)];
    rig.settle(load, relay, 0, faults).await.assert_promises();
}

#[tokio::test]
async fn f11_a_migration_locks_the_outbox() {
    let rig = Rig::of(Database::Postgres).await;
    let mut migration = Session::connect(&rig.outbox.url).await.unwrap();
    let load = rig.load().start().await;
    let mut relay = rig.relay_at_work().await;
    let mut faults = Vec::new();
    for _ in 0..rounds() {
        load.more(100).await;
        migration.execute("BEGIN; LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE {OF_THE_RELAY} AND wait_event_type = 'Lock'"
        );
        eventually(PATIENCE, "the relay waits for the lock", || async {
            sql::number(&rig.outbox.pool, &waiting).await.unwrap() > 0
        })
        .await;
        if servers::long() {
            relay.line_with("was not answered within", PATIENCE).await;
        }
        migration.execute("COMMIT").await.unwrap();
        faults.push(Fault::new("another session held the table", "the relay's sessions waited for a lock"));
    }
    load.more(100).await;
    rig.settle(load, relay, 0, faults).await.assert_promises();
}

/// The broker is stopped for a while: no session of the relay may sit in a transaction meanwhile.
#[tokio::test]
async fn f19_nothing_idles_in_a_transaction() {
    let (wire, amqp) = Wire::in_front_of(&servers::amqp()).await;
    let tape = Tape::rabbitmq(&servers::amqp()).await.through(&amqp);
    let rig = Rig::new(Outbox::new(Database::Postgres).await, tape);
    let mut admin = Session::connect(&rig.outbox.url).await.unwrap();
    set(&mut admin, "SET idle_in_transaction_session_timeout = 300").await;
    let mut idler = Session::connect(&rig.outbox.url).await.unwrap();
    idler.execute("BEGIN").await.unwrap();
    let pid = idler.number("SELECT pg_backend_pid()::bigint").await.unwrap();

    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    load.more(100).await;
    (0..wire.connections()).for_each(|connection| wire.clog(connection, true));
    let idle = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE {OF_THE_RELAY} AND state LIKE 'idle in transaction%' \
         AND now() - state_change > interval '100 ms'"
    );
    let gone = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    let mut looks = 0;
    eventually(PATIENCE, "the server ends the session that idles", || {
        looks += 1;
        async {
            assert_eq!(sql::number(&rig.outbox.pool, &idle).await.unwrap(), 0, "the relay idles too");
            sql::number(&rig.outbox.pool, &gone).await.unwrap() == 0
        }
    })
    .await;
    let ended = idler.execute("SELECT 1").await.unwrap_err();
    assert!(rig.outbox.left().await > 0, "rows waited for the broker");
    (0..wire.connections()).for_each(|connection| wire.clog(connection, false));
    let evidence = format!("{ended}; {looks} looks at the relay's sessions while the broker was stopped");
    let faults = vec![Fault::new("a session that idled in a transaction was ended (25P03)", evidence)];
    rig.settle(load, relay, WINDOW, faults).await.assert_promises();
}

/// The rows that are read and deleted stay on their pages for as long as an old snapshot could see them.
#[tokio::test]
async fn f20_a_long_transaction_elsewhere() {
    let mut rig = Rig::of(Database::Postgres).await;
    rig.relay_lines = "old_transaction_ms = 2000".to_owned();
    let mut old = Session::connect(&rig.outbox.url).await.unwrap();
    old.execute("SET application_name = 'who forgot a commit'").await.unwrap();
    let pid = old.number("SELECT pg_backend_pid()::bigint").await.unwrap();
    old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    assert_eq!(old.number("SELECT count(*) FROM outbox").await.unwrap(), 0);
    let load = rig.load().start().await;
    let mut relay = rig.relay_at_work().await;
    load.more(if servers::long() { 50_000 } else { 1_500 }).await;
    let alert = relay.line_with("has been open for too long", PATIENCE).await;
    assert!(
        alert.contains(&format!("session {pid} of ")) && alert.contains("who forgot a commit"),
        "{alert}"
    );
    let journal_so_far = load.committed();
    eventually(PATIENCE, "the relay keeps up", || async { rig.outbox.left().await < 50 }).await;
    let age =
        "SELECT max(age(backend_xmin))::bigint FROM pg_stat_activity WHERE datname = current_database()";
    let age = sql::number(&rig.outbox.pool, age).await.unwrap();
    assert!(age > 1_000, "the old snapshot holds back {age} transactions only");
    assert_eq!(
        old.number("SELECT count(*) FROM outbox").await.unwrap(),
        0,
        "the snapshot was held all the time"
    );
    let evidence = format!("it holds back {age} transactions after {journal_so_far} rows");
    let faults = vec![Fault::new("an old snapshot was held", evidence)];
    rig.settle(load, relay, 0, faults).await.assert_promises();
    drop(old);
}

#[tokio::test]
async fn f32_a_right_is_taken_away() {
    let server = PrivateServer::postgres("").await;
    let mut rig = Rig::at(&server.url).await;
    let mut admin = Session::connect(&server.url).await.unwrap();
    let role = "CREATE ROLE relay LOGIN PASSWORD 's3cr3t-canary'; GRANT USAGE ON SCHEMA public TO relay; \
        GRANT SELECT ON ALL TABLES IN SCHEMA public TO relay; GRANT DELETE, UPDATE (xid) ON outbox TO relay; \
        GRANT INSERT, UPDATE ON relay_source, relay_parked TO relay";
    admin.execute(role).await.unwrap();
    let mut url = url::Url::parse(&server.url).unwrap();
    url.set_username("relay").unwrap();
    url.set_password(Some("s3cr3t-canary")).unwrap();
    rig.source_url = url.to_string();
    let load = rig.load().start().await;
    let mut relay = rig.relay_at_work().await;
    load.more(100).await;
    admin.execute("REVOKE DELETE ON outbox FROM relay").await.unwrap();
    let status = relay.ended(PATIENCE).await;
    let log = relay.log().join("\n");
    assert!(status.code() == Some(1) && log.contains("permission denied"), "{status}\n{log}");
    let mut faults =
        vec![Fault::new("a right was taken away (42501)", format!("the relay ended by {status}"))];
    admin.execute("GRANT DELETE ON outbox TO relay").await.unwrap();

    url.set_password(Some("another-canary")).unwrap();
    rig.source_url = url.to_string();
    let mut refused: Process = rig.relay();
    let status = refused.ended(PATIENCE).await;
    let log = refused.log().join("\n");
    assert!(status.code() == Some(4) && log.contains("password authentication failed"), "{status}\n{log}");
    assert!(!log.contains("canary"), "a password in the log:\n{log}");
    faults.push(Fault::new("the password was wrong", format!("the relay ended by {status}")));

    url.set_password(Some("s3cr3t-canary")).unwrap();
    rig.source_url = url.to_string();
    let relay = rig.relay_at_work().await;
    // What was published and could not be deleted comes again.
    rig.settle(load, relay, barid_tests::rig::HELD_MAX, faults).await.assert_promises();
}

/// A row of a key that the load does not use.
pub(super) async fn post(db: &mut Session, rig: &Rig, key: i64, n: i64) -> uuid::Uuid {
    load::post(db, Posted { key, n }, &rig.tape.destination).await.unwrap()
}

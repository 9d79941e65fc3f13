//! Servers that stop, crash and come back.

use barid_tests::{
    PrivateServer, eventually,
    ledger::Fault,
    rig::{PATIENCE, Rig},
    sql,
};
use tokio::process::Command;

use super::rounds;

/// What a crash of PostgreSQL can bring back: DELETEs of the last moments, because the relay does not wait until they are
/// written. Three times `wal_writer_delay`, at the pace of the load.
const DELETES_LOST_MAX: usize = 1_000;

#[derive(Clone, Copy)]
enum How {
    Fast,
    Immediate,
}

/// Stops the server and starts it again, under load.
async fn restarted(server: PrivateServer, how: How, says: &str, window: usize) {
    let rig = Rig::at(&server.url).await;
    let load = rig.load().start().await;
    let mut relay = rig.relay_at_work().await;
    for _ in 0..rounds() {
        load.more(150).await;
        match how {
            How::Fast => server.stop().await,
            How::Immediate => server.crash().await,
        }
        server.start().await;
    }
    load.more(150).await;
    let noticed = relay.line_with("connecting again", PATIENCE).await;
    let log = server.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains(says)).collect();
    assert!(said.len() >= rounds(), "the server did not say {says:?} each time:\n{log}");
    let complaints = relay.log().len();
    assert!(complaints < 200 * rounds(), "{complaints} lines for {} restarts: a busy loop", rounds());
    let fault = |line: &&str| Fault::new("the server was stopped and started", format!("{line}; {noticed}"));
    let faults = said.iter().take(rounds()).map(fault).collect();
    rig.settle(load, relay, window, faults).await.assert_promises();
}

#[tokio::test]
async fn f04_a_fast_restart_of_postgres() {
    let server = PrivateServer::postgres("").await;
    restarted(server, How::Fast, "received fast shutdown request", 0).await;
}

#[tokio::test]
async fn f07_an_immediate_stop_of_postgres() {
    let server = PrivateServer::postgres("").await;
    restarted(server, How::Immediate, "automatic recovery in progress", DELETES_LOST_MAX).await;
}

#[tokio::test]
async fn f07_kill_9_of_mariadb() {
    let server = PrivateServer::mariadb("").await;
    restarted(server, How::Immediate, "Starting crash recovery", 0).await;
}

#[tokio::test]
async fn f06_one_backend_of_postgres_is_killed() {
    let server = PrivateServer::postgres("").await;
    let rig = Rig::at(&server.url).await;
    let load = rig.load().start().await;
    let mut relay = rig.relay_at_work().await;
    let mut faults = Vec::new();
    for round in 1..=rounds() {
        load.more(150).await;
        let backend =
            "SELECT CAST(max(pid) AS bigint) FROM pg_stat_activity WHERE application_name = 'barid-relay'";
        eventually(PATIENCE, "the relay is connected", || async {
            sql::number(&rig.outbox.pool, backend).await.is_ok()
        })
        .await;
        let pid = sql::number(&rig.outbox.pool, backend).await.unwrap().to_string();
        assert!(Command::new("kill").args(["-KILL", &pid]).status().await.unwrap().success());
        let died = format!("(PID {pid}) was terminated by signal 9");
        let recovered = "database system is ready to accept connections";
        eventually(PATIENCE, "all sessions end and the server recovers", || async {
            let log = server.log();
            log.contains(&died) && log.matches(recovered).count() > round
        })
        .await;
        faults.push(Fault::new("a backend was killed", died));
    }
    load.more(150).await;
    relay.line_with("connecting again", PATIENCE).await;
    rig.settle(load, relay, DELETES_LOST_MAX, faults).await.assert_promises();
}

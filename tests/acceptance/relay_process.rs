//! The relay as whoever deploys it meets it: a process with a configuration, signals and exit codes.

#![allow(clippy::unwrap_used)] // a test

#[path = "relay_process/stage.rs"]
mod stage;

use std::collections::HashSet;

use barid_tests::{Process, TestDatabase, eventually};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use self::stage::{PATIENCE, Stage, WINDOW, ended, in_order, signal};

#[tokio::test]
async fn a_user_sets_it_up() {
    let stage = Stage::new().await;
    let says = |(code, said): (i32, String), expected: i32, text: &str| {
        assert!(code == expected && said.contains(text), "exit code {code}, lacks {text:?}:\n{said}");
    };
    says(stage.run(&["check"]).await, 5, "barid-relay schema apply");
    says(stage.run(&["run"]).await, 5, "barid-relay schema apply");
    says(stage.run(&["schema", "apply"]).await, 0, "applied 0001 outbox");
    says(stage.run(&["schema", "apply"]).await, 0, "nothing to apply");
    says(stage.run(&["check"]).await, 0, "[source.orders]: ok");
    says(stage.run(&["check"]).await, 0, "[sink.rabbit]: ok");
    let mut relay = stage.start(&["run"]);
    relay.line_with("claimed the outbox", PATIENCE).await;
    says(stage.run(&["check"]).await, 0, "another relay is at work");
    assert!(relay.terminate(PATIENCE).await.0.success());
}

#[tokio::test]
async fn the_printed_schema_is_the_applied_one() {
    let (code, sql) = ended(Process::relay(["schema", "print", "--dialect", "postgres"])).await;
    assert_eq!(code, 0, "{sql}");
    let database = TestDatabase::postgres().await;
    database.pool.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    let (code, said) = ended(Process::relay(["schema", "apply", "--url", &database.url])).await;
    assert!(code == 0 && said.contains("nothing to apply"), "{code}\n{said}");
    database.drop_now().await;
}

#[tokio::test]
async fn after_sigterm_everything_confirmed_is_deleted() {
    const ROWS: i64 = 6_000;
    let stage = Stage::ready().await;
    stage.commit_rows(ROWS).await;
    let first = stage.start(&["run"]);
    stage.fewer_than(ROWS).await;
    let (status, log) = first.terminate(PATIENCE).await;
    let log = log.join("\n");
    assert!(status.code() == Some(0) && log.contains("stopping"), "{status}\n{log}");
    let left: HashSet<_> = stage.outbox().await.into_iter().collect();
    assert!(!left.is_empty(), "it was stopped in the middle of its work\n{log}");
    let mut copies = stage.published().await;
    assert_eq!(copies.iter().filter(|copy| left.contains(&copy.id)).count(), 0, "confirmed and not deleted");

    let second = stage.start(&["run"]);
    eventually(PATIENCE, "the outbox is empty", || async { stage.outbox_len().await == 0 }).await;
    assert!(second.terminate(PATIENCE).await.0.success());
    copies.extend(stage.published().await);
    let by_id = in_order(&copies);
    assert_eq!((by_id.len(), copies.len()), (6_000, 6_000), "each row once");
}

#[tokio::test]
async fn a_second_instance_waits_and_takes_over_after_kill_9() {
    const ROWS: i64 = 6_000;
    let stage = Stage::ready().await;
    let mut first = stage.start(&["run"]);
    let claimed = first.line_with("claimed the outbox", PATIENCE).await;
    assert!(claimed.contains("epoch") && claimed.contains('1'), "{claimed}");
    let mut second = stage.start(&["run"]);
    second.line_with("another relay is working on its outbox: ", PATIENCE).await;
    stage.commit_rows(ROWS).await;
    stage.fewer_than(ROWS).await;
    assert!(!second.log().iter().any(|line| line.contains("claimed")), "two relays at work at once");
    first.kill().await;
    second.line_with("claimed the outbox", PATIENCE).await;
    eventually(PATIENCE, "the outbox is empty", || async { stage.outbox_len().await == 0 }).await;
    let (status, log) = second.terminate(PATIENCE).await;
    assert!(status.success(), "{status}\n{}", log.join("\n"));
    let copies = stage.published().await;
    let by_id = in_order(&copies);
    assert_eq!(by_id.len(), 6_000, "nothing is lost");
    let twice = by_id.values().filter(|copies| **copies == 2).count();
    assert!(by_id.values().all(|copies| *copies <= 2), "more than two copies after one crash");
    // What was in flight, and what was confirmed and on its way to a DELETE: a part of the rows, not all of them again.
    assert!(twice < 6_000 / 2, "{twice} rows came twice, with a window of {WINDOW}");
}

#[tokio::test]
async fn exit_codes_are_those_of_the_help() {
    let (code, help) = ended(Process::relay(["--help"])).await;
    assert_eq!(code, 0, "{help}");
    let stage = Stage::ready().await;
    let documented = |code: i32| {
        let line = |line: &str| line.split_whitespace().next() == Some(&code.to_string());
        assert!(help.lines().any(line), "{code} is not in the help:\n{help}");
    };
    let happens = |(code, said): (i32, String), expected: i32| {
        assert_eq!(code, expected, "{said}");
        documented(code);
    };
    let url = stage.database.url.clone();
    let amqp = barid_tests::servers::amqp();
    happens(stage.run(&["check"]).await, 0);
    happens(stage.run(&["run", "--colour"]).await, 2);
    happens(stage.run(&["fly"]).await, 2);
    stage.configure("nosql://nowhere", &amqp);
    happens(stage.run(&["run"]).await, 3);
    std::fs::write(stage.config(), "[source.orders]\nulr = \"x\"\n").unwrap();
    happens(stage.run(&["run"]).await, 3);
    stage.configure("postgres://nobody@127.0.0.1:1/orders", &amqp);
    happens(stage.run(&["check"]).await, 4);
    happens(stage.run(&["schema", "apply"]).await, 4);
    stage.configure(&url, "amqp://nobody:wrong@127.0.0.1:1/%2f");
    happens(stage.run(&["check"]).await, 4);
    let mut wrong = url::Url::parse(&amqp).unwrap();
    wrong.set_password(Some("wrong")).unwrap();
    stage.configure(&url, wrong.as_str());
    happens(stage.run(&["run"]).await, 4);
    let empty = TestDatabase::postgres().await;
    stage.configure(&empty.url, &amqp);
    happens(stage.run(&["run"]).await, 5);
    stage.configure(&url, &amqp);
    happens(killed_by_two_signals(&stage).await, 130);
    // Last, for it ruins the schema.
    let mut relay = stage.start(&["run"]);
    relay.line_with("claimed the outbox", PATIENCE).await;
    stage.database.pool.execute("ALTER TABLE outbox RENAME TO outbox_of_old").await.unwrap();
    happens(ended(relay).await, 1);
}

/// A clean stop waits for the DELETE, and the DELETE for the lock: time enough for a second signal.
async fn killed_by_two_signals(stage: &Stage) -> (i32, String) {
    stage.commit_rows(1).await;
    let mut lock = PgConnection::connect(&stage.database.url).await.unwrap();
    lock.execute("BEGIN").await.unwrap();
    lock.execute("SELECT id FROM outbox FOR UPDATE").await.unwrap();
    let mut relay = stage.start(&["run"]);
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND \
        application_name = 'barid-relay' AND wait_event_type = 'Lock' AND query LIKE 'DELETE%'";
    eventually(PATIENCE, "the relay waits for its DELETE", || async {
        sqlx::query_scalar::<_, i64>(blocked).fetch_one(&stage.database.pool).await.unwrap() == 1
    })
    .await;
    signal(&relay, "-TERM").await;
    relay.line_with("stopping", PATIENCE).await;
    signal(&relay, "-TERM").await;
    let how = ended(relay).await;
    lock.close().await.unwrap();
    how
}

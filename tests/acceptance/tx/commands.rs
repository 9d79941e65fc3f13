//! Each command in both output forms, and each exit code.

use std::sync::Arc;

use barid::{
    distributed::{
        Coordinator, DistributedUnitOfWork, Principal, Resource, ResourceId, Settings, SqlResource,
    },
    store::{AnyPool, distributed::any::decision_log},
};
use barid_tests::{sql, transfer::run};
use serde_json::Value;
use sqlx::Executor;
use uuid::Uuid;

use super::place::{Place, parse, says};

const REASON: [&str; 4] = ["--reason", "the night shift said so", "--by", "ann"];

fn because<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &REASON].concat()
}

/// Who did what, the oldest first.
async fn audit(place: &Place) -> Vec<(String, String)> {
    let count = sql::number(&place.bank.pools[0], "SELECT count(*) FROM dtx_audit").await.unwrap();
    let mut all = Vec::new();
    for entry in place.bank.coordinator.audited(None, 100).await.unwrap() {
        assert_eq!((entry.principal.as_str(), entry.reason.as_str()), ("ann", "the night shift said so"));
        all.push((entry.action, entry.outcome));
    }
    assert_eq!(usize::try_from(count).unwrap(), all.len());
    all.reverse();
    all
}

fn did(action: &str) -> (String, String) {
    (action.to_owned(), "allowed".to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_decided_is_looked_at_and_aborted() {
    let place = Place::new(1).await;
    let gid = place.dies_at("c6", 0).await;
    let (table, json) = place.both(&["list"]).await;
    says(&table, &[&gid, "2pc", "active", "RECOVERED", "1 open: 0 wait for their commit"]);
    let listed = &json["transactions"][0];
    assert_eq!(
        (&listed["gid"], &listed["home"], &listed["decision"]),
        (&gid.clone().into(), &true.into(), &Value::Null)
    );
    assert_eq!(json["figures"]["open"], 1);

    let (table, json) = place.both(&["show", &gid]).await;
    says(
        &table,
        &[&gid, "takes part with work of its own", "branch-1", "branch-2", "prepared", "CALLED THERE"],
    );
    let branches = json["branches"].as_array().unwrap();
    assert_eq!(branches.len(), 2);
    assert!(branches.iter().all(|branch| branch["prepared_now"] == true), "{json}");

    // Its home rows are gone with its coordinator, so that nobody can commit it any more.
    let (code, said) = place.tx(&because(&["resolve", &gid, "--commit"])).await;
    assert_eq!(code, 7, "{said}");
    says(&said, &[&gid, "not prepared"]);
    let (code, said) = place.tx(&because(&["forget", &gid])).await;
    assert_eq!(code, 7, "{said}");
    says(&said, &["not over"]);

    let dry = because(&["resolve", &gid, "--abort", "--dry-run"]);
    let (table, json) = place.both(&dry).await;
    says(&table, &["would decide: abort", &gid]);
    assert_eq!(
        (&json["decision"], &json["stood"], &json["dry_run"]),
        (&"abort".into(), &false.into(), &true.into())
    );
    assert_eq!(place.bank.prepared().await, 2, "nothing was done");

    let json = place.json(&because(&["resolve", &gid, "--abort"])).await;
    assert_eq!((&json["outcome"], &json["pending"]), (&"aborted".into(), &false.into()));
    assert!(!place.bank.happened(0).await && place.bank.prepared().await == 0);
    let (table, _) = place.both(&["show", &gid]).await;
    says(&table, &["by hand, ann: the night shift said so", "resolve", "WHO"]);

    let (table, json) = place.both(&because(&["forget", &gid, "--dry-run"])).await;
    says(&table, &["would forget", "aborted"]);
    assert_eq!(json["dry_run"], true);
    let (code, said) = place.tx(&because(&["forget", &gid])).await;
    assert_eq!(code, 0, "{said}");
    says(&said, &["forget: transaction", &gid]);
    let (code, said) = place.tx(&["show", &gid]).await;
    assert_eq!(code, 6, "{said}");
    let left = sql::number(&place.bank.pools[1], "SELECT count(*) FROM dtx_marker").await.unwrap();
    assert_eq!(left, 0, "the markers go with it");
    assert_eq!(
        audit(&place).await,
        [did("resolve"), did("forget"), did("resolve"), did("forget")],
        "refused or done, not tried dry"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_decided_is_carried_out_and_never_contradicted() {
    let place = Place::new(2).await;
    let gid = place.dies_at("c9", 0).await;
    for dry in [&["--dry-run"][..], &[]] {
        let (code, said) = place.tx(&because(&[&["resolve", &gid, "--abort"], dry].concat())).await;
        assert_eq!(code, 7, "{said}");
        says(&said, &["is committed and can no longer be rolled back"]);
    }
    let (table, json) = place.both(&because(&["resolve", &gid, "--commit", "--dry-run"])).await;
    says(&table, &["would carry out at once what is decided: commit"]);
    assert_eq!(json["stood"], true);

    // One of the databases is away: the rest is done, and what is left is left to recovery.
    let away = place.config().replace(&place.urls[2], "mysql://nobody@127.0.0.1:1/nothing");
    place.configure(&away);
    let (table, json) = place.both(&["show", &gid]).await;
    says(&table, &["not known"]);
    assert_eq!(json["branches"][1]["prepared_now"], Value::Null);
    let json = place.json(&because(&["resolve", &gid, "--commit"])).await;
    assert_eq!((&json["outcome"], &json["pending"]), (&"committed".into(), &true.into()));
    place.configure(&place.config());
    let (code, said) = place.tx(&because(&["resolve", &gid, "--commit"])).await;
    assert_eq!(code, 0, "{said}");
    says(&said, &["commit transaction", "committed"]);
    assert!(place.bank.happened(0).await && place.bank.prepared().await == 0);
    // Over: there is nothing to do, and the opposite is still refused.
    let (table, _) = place.both(&because(&["resolve", &gid, "--commit", "--dry-run"])).await;
    says(&table, &["is over already: committed"]);
    assert_eq!(place.tx(&because(&["resolve", &gid, "--abort"])).await.0, 7);

    // A database that is gone for good: nothing but giving up ends it, and that stays to be seen.
    let gid = place.dies_at("c9", 1).await;
    place.configure(&away);
    assert_eq!(place.tx(&because(&["forget", &gid])).await.0, 7);
    let (table, json) = place.both(&because(&["forget", &gid, "--give-up", "--dry-run"])).await;
    says(&table, &["would give up: transaction", "committing"]);
    assert_eq!((&json["action"], &json["was"]), (&"give_up".into(), &"committing".into()));
    let (code, said) = place.tx(&because(&["forget", &gid, "--give-up"])).await;
    assert_eq!(code, 0, "{said}");
    let json = place.json(&["list", "--finished", "--status", "heuristic_hazard"]).await;
    assert_eq!(json["transactions"][0]["gid"], gid);
    assert_eq!(place.bank.prepared().await, 1, "what was given up is left where it is");
    place.bank.leave_nothing_prepared().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_was_ended_by_hand_is_reported_and_then_forgotten() {
    let place = Place::new(1).await;
    let gid = place.dies_at("c9", 0).await;
    let shown = place.json(&["show", &gid]).await;
    let xid = shown["branches"][0]["xid"].as_str().unwrap().to_owned();
    run(&place.bank.pools[1], &format!("ROLLBACK PREPARED '{xid}'")).await.unwrap();
    let (code, said) = place.tx(&because(&["resolve", &gid, "--commit", "--output", "json"])).await;
    assert_eq!(code, 1, "{said}");
    says(&said, &["mixed outcome", &gid]);
    assert_eq!(parse(&said)["outcome"], "heuristic");
    let (table, json) = place.both(&["list", "--finished"]).await;
    says(&table, &[&gid, "heuristic_"]);
    assert_eq!(json["transactions"].as_array().unwrap().len(), 1);
    let (table, _) = place.both(&["show", &gid]).await;
    says(&table, &["heuristic_rollback"]);
    assert_eq!(place.tx(&because(&["forget", &gid])).await.0, 0);
    let (table, json) = place.both(&["list", "--all"]).await;
    says(&table, &["0 open"]);
    assert_eq!(json["transactions"], Value::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_waits_under_a_name_is_committed_by_its_name() {
    let place = Place::new(1).await;
    let AnyPool::Postgres(pool) = &place.bank.pools[1] else { panic!("PostgreSQL") };
    let resource = SqlResource::new(ResourceId::new("branch-1").unwrap(), pool.clone());
    let log = decision_log(&place.bank.pools[0]);
    let resources: [Arc<dyn Resource>; 1] = [resource.clone()];
    let coordinator = Coordinator::connect(log, resources, Settings::default()).await.unwrap();
    let mut unit = DistributedUnitOfWork::new(&coordinator);
    let branch = resource.branch();
    unit.register_participant("money", branch.clone()).unwrap();
    let work = async || {
        let mut db = branch.connection().await?;
        db.execute("UPDATE account SET balance = 7 WHERE id = 0").await?;
        Ok(())
    };
    coordinator.named(Principal::new("shop")).begin_distributed("order-4711", unit, work).await.unwrap();
    let (table, json) = place.both(&["list"]).await;
    says(&table, &["order-4711", "prepared", "1 open: 1 wait for their commit"]);
    assert_eq!(
        (&json["transactions"][0]["name"], &json["figures"]["waiting"]),
        (&"order-4711".into(), &1.into())
    );
    let (table, json) = place.both(&["show", "order-4711"]).await;
    says(&table, &["only decides", "money", "shop"]);
    assert_eq!(json["branches"][0]["prepared_now"], true);
    let (table, _) = place.both(&because(&["resolve", "order-4711", "--commit", "--dry-run"])).await;
    says(&table, &["would decide: commit", "(order-4711)"]);
    let json = place.json(&because(&["resolve", "order-4711", "--commit"])).await;
    assert_eq!((&json["outcome"], &json["name"]), (&"committed".into(), &"order-4711".into()));
    assert_eq!(
        sql::number(&place.bank.pools[1], "SELECT balance FROM account WHERE id = 0").await.unwrap(),
        7
    );
    assert_eq!(audit(&place).await, [did("resolve")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_are_those_of_the_help() {
    let place = Place::new(1).await;
    let (gid, unknown) = (place.dies_at("c6", 0).await, Uuid::now_v7().to_string());
    for (arguments, expected, text) in [
        (vec!["list"], 0, gid.as_str()),
        (vec!["list", "--older-than", "1h"], 0, "1 open"),
        (vec!["list", "--older-than", "soon"], 2, "30s, 15m, 2h or 7d"),
        (vec!["list", "--limit", "0"], 2, "--limit"),
        (vec!["list", "--all", "--finished"], 2, "--finished"),
        (vec!["list", "--source", "other"], 2, "sources: home"),
        (vec!["show"], 2, "TRANSACTION"),
        (vec!["show", &unknown], 6, &unknown),
        (vec!["show", "order-4711"], 6, "no transaction is called \"order-4711\""),
        (vec!["resolve", &gid, "--abort"], 2, "--reason"),
        (vec!["resolve", &gid, "--abort", "--reason", ""], 2, "--reason"),
        (vec!["resolve", &gid, "--abort", "--reason", " "], 2, "needs a reason"),
        (because(&["resolve", &gid]), 2, "--commit"),
        (because(&["resolve", &gid, "--commit", "--abort"]), 2, "--abort"),
        (because(&["resolve", &unknown, "--abort"]), 6, &unknown),
        (because(&["resolve", &gid, "--commit"]), 7, "not prepared"),
        (because(&["forget", &gid]), 7, "not over"),
        (because(&["forget", &unknown]), 6, &unknown),
    ] {
        let (code, said) = place.tx(&arguments).await;
        assert_eq!(code, expected, "{arguments:?}: {said}");
        says(&said, &[text]);
    }
    assert_eq!(place.bank.prepared().await, 2, "nothing was changed");
    let (code, help) = place.tx(&["--help"]).await;
    assert_eq!(code, 0);
    says(&help, &["list", "show", "resolve", "forget", "check", "barid-relay tx list"]);

    let config = place.config();
    let without = config.replace("branch-2", "other");
    let unreachable = config.replace(&place.urls[0], "postgres://nobody@127.0.0.1:1/nothing");
    let wrong = config.replace("resource.branch-2", "resource.\"a b\"");
    for (config, arguments, expected, text) in [
        (&without, because(&["resolve", &gid, "--abort"]), 3, "add [resource.branch-2]"),
        (&wrong, vec!["list"], 3, "cannot name a resource"),
        (&config.replace("url = \"mysql", "ulr = \"mysql"), vec!["list"], 3, "did you mean \"url\"?"),
        (&unreachable, vec!["list"], 4, "127.0.0.1:1"),
    ] {
        place.configure(config);
        let (code, said) = place.tx(&arguments).await;
        assert_eq!(code, expected, "{arguments:?}: {said}");
        says(&said, &[text]);
    }
    place.configure(&config);
    run(&place.bank.pools[0], "DELETE FROM barid_schema WHERE version = 12").await.unwrap();
    let (code, said) = place.tx(&["list"]).await;
    assert_eq!(code, 5, "{said}");
    says(&said, &["0012_distributed", "barid-relay schema apply"]);
    place.bank.leave_nothing_prepared().await;
}

//! `barid-relay saga`: each command in both output forms, and each exit code.

use std::process::Output;

use barid::orchestration::Ended;
use barid_tests::{
    Process, TestDatabase, sql,
    steps::{Tills, Transfer, patient},
};
use serde_json::Value;

use super::LONG;

/// The relay's configuration for the database of the sagas.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn of(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "[source.home]\nurl = {url:?}\n\n[sink.out]\nkind = \"sql\"\nurl = {url:?}\n\n[[route]]\ndestination = \"*\"\nsink = \"out\"\n"
        );
        std::fs::write(folder.path().join("relay.toml"), config).unwrap();
        Self { folder }
    }

    /// How a command ended, what it said, and why it failed.
    async fn saga(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Process::relay_command();
        command.arg("saga").args(arguments).arg("--config").arg(self.folder.path().join("relay.toml"));
        let ended = tokio::time::timeout(LONG, command.kill_on_drop(true).output()).await.unwrap();
        let Output { status, stdout, stderr } = ended.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap_or(-1), text(stdout), text(stderr))
    }

    /// What a command that works says to people, and to programs.
    async fn both(&self, arguments: &[&str]) -> (String, Value) {
        let (code, table, error) = self.saga(arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {error}");
        (table, self.json(arguments).await)
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let (code, said, error) = self.saga(&[arguments, &["--output", "json"]].concat()).await;
        assert_eq!(code, 0, "{arguments:?}: {error}");
        serde_json::from_str(&said).unwrap()
    }

    /// A command that is refused with this code.
    async fn refused(&self, arguments: &[&str], expected: i32, says: &str) {
        let (code, _, error) = self.saga(arguments).await;
        assert_eq!(code, expected, "{arguments:?}: {error}");
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
}

fn says(said: &str, texts: &[&str]) {
    for text in texts {
        assert!(said.contains(text), "{text:?} is not in\n{said}");
    }
}

const BECAUSE: [&str; 4] = ["--reason", "the night shift said so", "--by", "ann"];

fn because<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &BECAUSE].concat()
}

/// Two sagas of which one step can be done and not undone, and one that is over.
async fn stuck(urls: [&str; 2]) -> Tills {
    Tills::create(urls, 3).await.unwrap();
    let tills = Tills::open(urls).await.unwrap();
    let orchestrator = tills.orchestrator(patient()).unwrap();
    for account in 0..3 {
        if account < 2 {
            let broken = format!("INSERT INTO broken(what)VALUES('undone credit {account}')");
            sql::execute(&tills.pools[1], &broken).await.unwrap();
        }
        let fails = (account < 2).then(|| "record".to_owned());
        let ended = orchestrator
            .execute(&tills.saga("transfer", &Transfer { account, fails }).unwrap())
            .await
            .unwrap();
        assert_eq!(matches!(ended, Ended::NeedsHelp { .. }), account < 2, "{ended:?}");
    }
    sql::execute(&tills.pools[1], "DELETE FROM broken").await.unwrap();
    tills
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_look_and_mend() {
    let (home, other) = (TestDatabase::postgres().await, TestDatabase::postgres().await);
    let (tills, desk) = (stuck([&home.url, &other.url]).await, Desk::of(&home.url));
    let (table, json) = desk.both(&["list"]).await;
    says(&table, &["transfer 1", "requires_manual_intervention", "record is not possible", "BECAUSE"]);
    let all = json["sagas"].as_array().unwrap();
    let first = Tills::id(0).to_string();
    assert_eq!((all.len(), all[0]["id"].as_str()), (2, Some(first.as_str())), "the oldest first");
    let count = async |arguments: &[&str]| desk.json(arguments).await["sagas"].as_array().unwrap().len();
    assert_eq!(count(&["list", "--finished"]).await, 1);
    assert_eq!(count(&["list", "--all", "--limit", "2"]).await, 2);
    assert_eq!(count(&["list", "--all", "--status", "completed", "--name", "transfer"]).await, 1);
    assert_eq!(count(&["list", "--all", "--name", "payment"]).await, 0);
    assert_eq!(count(&["list", "--older-than", "1h"]).await, 0);

    // By its id, or by the text that this was made from.
    let (table, json) = desk.both(&["show", "account-0"]).await;
    says(&table, &[&first, "version 1", "STEP", "stuck", "undone credit is broken", "SAID LAST"]);
    assert_eq!(json["steps"][1]["status"], "stuck");
    assert_eq!(desk.json(&["show", &first]).await["steps"], json["steps"]);

    desk.refused(&["show", "account-9"], 6, "there is no saga").await;
    desk.refused(&["retry", "account-0"], 2, "--reason").await;
    desk.refused(&because(&["retry", "account-9"]), 6, "there is no saga").await;
    desk.refused(&because(&["retry", "account-2"]), 7, "is completed").await;
    desk.refused(&because(&["skip", "account-0", "debit"]), 7, "only a stuck step can be skipped").await;
    desk.refused(&because(&["skip", "account-0", "refund"]), 7, "its steps are debit, credit, record").await;

    let dry = because(&["retry", "account-0", "--dry-run"]);
    let (table, json) = desk.both(&dry).await;
    says(&table, &["would retry saga", "credit: stuck, now compensating"]);
    assert_eq!((&json["status"], &json["dry_run"]), (&"compensating".into(), &true.into()));
    assert_eq!(desk.json(&["show", "account-0"]).await["steps"][1]["status"], "stuck", "nothing was done");
    let json = desk.json(&because(&["retry", "account-0"])).await;
    assert_eq!(
        (&json["steps"][0]["step"], &json["steps"][0]["to"]),
        (&"credit".into(), &"compensating".into())
    );
    let (code, said, _) = desk.saga(&because(&["retry", "account-0"])).await;
    assert_eq!(code, 0, "it waits for somebody who goes on with it: {said}");
    says(&said, &["nothing of it is stuck"]);

    sql::execute(&tills.pools[1], "UPDATE account SET balance=balance-10 WHERE id=1").await.unwrap();
    let json = desk.json(&because(&["skip", "account-1", "credit"])).await;
    assert_eq!((&json["action"], &json["status"]), (&"skip".into(), &"compensating".into()));

    let orchestrator = tills.orchestrator(patient()).unwrap();
    for account in 0..2 {
        let ended = orchestrator.finish(Tills::id(account)).await.unwrap();
        assert!(matches!(ended, Ended::Compensated { .. }), "{ended:?}");
    }
    tills.check(0, &Ended::Compensated { reason: String::new() }).await;
    let balance = "SELECT balance FROM account WHERE id=1";
    assert_eq!(sql::number(&tills.pools[1], balance).await.unwrap(), barid_tests::steps::BALANCE);
    let (table, json) = desk.both(&["show", "account-1"]).await;
    says(&table, &["skip saga step credit", "ann", "the night shift said so", "skipped", "compensated"]);
    assert_eq!(json["audit"].as_array().unwrap().len(), 1, "refused or tried dry is not done: {json}");
    desk.refused(&because(&["skip", "account-1", "credit"]), 7, "is compensated").await;
    tills.close().await;
}

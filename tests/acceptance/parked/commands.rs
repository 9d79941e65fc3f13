//! Each command in both output forms, and each exit code.

use serde_json::Value;
use uuid::Uuid;

use barid_tests::place::{Hand, KINDS, Kind, PATIENCE, Place};

const REASON: [&str; 2] = ["--reason", "because"];

/// Parked by a relay that has ended: two keys with a poison message each and one behind, one more without a key.
async fn place_with_parked(kind: Kind) -> (Place, Vec<Uuid>) {
    let place = Place::new(kind).await;
    let there = format!("queue:{}", place.there);
    let rows = [
        ("topic:nowhere", Some("a"), "first"),
        ("shipping", Some("b"), "second"),
        (there.as_str(), Some("a"), "third"),
        (there.as_str(), Some("b"), "fourth"),
        ("topic:nowhere", None, "fifth"),
    ];
    let mut ids = Vec::new();
    for (destination, key, body) in rows {
        ids.push(place.insert(&Hand { key, ..Hand::new(destination, "", body) }).await);
    }
    let relay = place.relay();
    place.until_parked(5).await;
    assert!(relay.terminate(PATIENCE).await.0.success());
    (place, ids)
}

fn ids_of(list: &Value) -> Vec<Uuid> {
    let messages = list["messages"].as_array().unwrap().iter();
    messages.map(|message| message["id"].as_str().unwrap().parse().unwrap()).collect()
}

fn says(said: &str, texts: &[&str]) {
    for text in texts {
        assert!(said.contains(text), "{text:?} is not in\n{said}");
    }
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    for kind in KINDS {
        let (place, ids) = place_with_parked(kind).await;
        let fingerprint =
            place.json(&["show", &ids[0].to_string()]).await["messages"][0]["fingerprint"].clone();
        let fingerprint = fingerprint.as_str().unwrap();
        for (arguments, expected) in [
            (&["list"][..], &ids[..]),
            (&["list", "--state", "behind"], &ids[2..4]),
            (&["list", "--state", "poison", "--state", "skipped", "--key", "order/b"], &ids[1..2]),
            (&["list", "--destination", "shipping"], &ids[1..2]),
            (
                &["list", "--type", "orders.placed", "--key", "order/a", "--older-than", "0s"],
                &[ids[0], ids[2]],
            ),
            (&["list", "--fingerprint", fingerprint], &[ids[0], ids[4]]),
            (&["list", "--newer-than", "1h", "--key", "order/a", "--state", "poison"], &ids[..1]),
            (&["list", "--older-than", "1h"], &[]),
        ] {
            assert_eq!(ids_of(&place.json(arguments).await), expected, "{kind:?}: {arguments:?}");
        }
        // Page by page.
        let first = place.json(&["list", "--limit", "2"]).await;
        let next = first["next"].as_str().unwrap().to_owned();
        let second = place.json(&["list", "--limit", "3", "--after", &next]).await;
        assert_eq!((ids_of(&first), ids_of(&second)), (ids[..2].to_vec(), ids[2..].to_vec()), "{kind:?}");
        assert_eq!(second["next"], Value::Null);
        let (code, table) = place.parked(&["list", "--limit", "2"]).await;
        assert_eq!(code, 0);
        says(
            &table,
            &["SEQ", "FINGERPRINT", &ids[1].to_string(), "order/b", &format!("More: --after {next}")],
        );
        let (code, table) = place.parked(&["groups"]).await;
        assert_eq!(code, 0);
        says(&table, &["MESSAGES", fingerprint, "topic:nowhere"]);
    }
}

#[tokio::test]
async fn a_body_is_shown_only_when_it_is_asked_for() {
    for kind in KINDS {
        let (place, ids) = place_with_parked(kind).await;
        let id = ids[0].to_string();
        for output in ["table", "json"] {
            let show = ["show", &id, "--output", output];
            let (code, said) = place.parked(&show).await;
            assert!(code == 0 && !said.contains("first"), "{kind:?}: {said}");
            says(&said, &["topic:nowhere", "no route for destination", &id, "5"]);
            let (code, said) = place.parked(&[&show[..], &["--body"]].concat()).await;
            assert!(code == 0 && said.contains("first"), "{kind:?}: {said}");
        }
    }
}

/// What an application wrote does not get to steer the operator's terminal.
#[tokio::test]
async fn control_characters_are_shown_and_not_obeyed() {
    let place = Place::new(Kind::Postgres).await;
    let id = place.insert(&Hand::new("\u{1b}[2Jgone", "a\u{7}", "\u{1b}[31mred")).await.to_string();
    let relay = place.relay();
    place.until_parked(1).await;
    assert!(relay.terminate(PATIENCE).await.0.success());
    for arguments in [&["list"][..], &["groups"], &["show", &id, "--body"]] {
        let (code, said) = place.parked(arguments).await;
        assert!(code == 0 && said.contains("\\u{1b}[2Jgone"), "{said}");
        assert!(!said.contains(['\u{1b}', '\u{7}']), "{said:?}");
    }
}

#[tokio::test]
async fn skipping_and_purging_let_the_key_go_on() {
    for kind in KINDS {
        let (place, ids) = place_with_parked(kind).await;
        let relay = place.relay();
        let id = ids[0].to_string();
        let (code, said) = place.parked(&[&["skip", &id][..], &REASON].concat()).await;
        assert_eq!(code, 0, "{said}");
        says(&said, &["skip: 1 messages of 1 keys"]);
        let sent = place.received(&place.there, 1).await;
        assert_eq!((sent[0].id, sent[0].body.as_str()), (ids[2], "third"), "{kind:?}");
        assert_eq!(ids_of(&place.json(&["list", "--state", "skipped"]).await), ids[..1]);

        let purge = [&["purge", "--key", "order/b"][..], &REASON].concat();
        let (code, said) = place.parked(&purge).await;
        assert_eq!(code, 2, "nobody was asked: {said}");
        says(&said, &["purge 1 messages of source main for good", "--yes"]);
        let counted = place.json(&[&purge[..], &["--dry-run"]].concat()).await;
        assert_eq!(counted["messages"], 1, "not the one that only waits");
        assert_eq!(place.json(&[&purge[..], &["--yes"]].concat()).await["dry_run"], false);
        let sent = place.received(&place.there, 1).await;
        assert_eq!((sent[0].id, sent[0].body.as_str()), (ids[3], "fourth"), "{kind:?}");

        let all = [&["purge", "--all", "--yes"][..], &REASON].concat();
        assert_eq!(
            place.json(&all).await["messages"],
            2,
            "{kind:?}: the skipped one, and the one without a key"
        );
        place.until_parked(0).await;
        let audit = place.texts("SELECT action FROM relay_audit ORDER BY id").await;
        assert_eq!(audit, ["skip", "purge", "purge"], "{kind:?}");
        assert!(relay.terminate(PATIENCE).await.0.success());
    }
}

/// What is repaired in the configuration: the destination gets a route, and one message is sent after the other.
#[tokio::test]
async fn one_message_is_retried_and_the_route_was_missing() {
    for kind in [Kind::MariaDb, Kind::Sqlite] {
        let place = Place::new(kind).await;
        place.configure("queue:nothing");
        let there = format!("queue:{}", place.there);
        let mut ids = Vec::new();
        for body in ["1", "2", "3"] {
            ids.push(place.insert(&Hand::new(&there, "a", body)).await);
        }
        let alone = place.insert(&Hand { key: None, ..Hand::new(&there, "", "alone") }).await;
        let relay = place.relay();
        place.until_parked(4).await;
        assert!(relay.terminate(PATIENCE).await.0.success());
        place.configure("queue:*");
        let retry = async |id: Uuid| place.parked(&[&["retry", &id.to_string()][..], &REASON].concat()).await;
        let (code, said) = retry(ids[1]).await;
        assert_eq!(code, 6, "{said}");
        says(&said, &["waits behind a poison message of its key"]);
        // No relay runs: it is done at the next start.
        assert_eq!(retry(alone).await.0, 0);
        let relay = place.relay();
        assert_eq!(place.received(&place.there, 1).await[0].id, alone, "{kind:?}");
        assert_eq!(retry(ids[0]).await.0, 0);
        let sent: Vec<Uuid> = place.received(&place.there, 3).await.iter().map(|copy| copy.id).collect();
        assert_eq!(sent, ids, "{kind:?}");
        place.until_parked(0).await;
        assert!(relay.terminate(PATIENCE).await.0.success());
    }
}

#[tokio::test]
async fn exit_codes_are_those_of_the_help() {
    let (place, ids) = place_with_parked(Kind::Postgres).await;
    let (poison, behind, unknown) = (ids[0].to_string(), ids[2].to_string(), Uuid::now_v7().to_string());
    let because = |arguments: &[&'static str]| [arguments, &REASON].concat();
    for (arguments, expected, text) in [
        (vec!["list"], 0, ""),
        (vec!["retry", &poison], 2, "--reason"),
        (vec!["retry", &poison, "--reason", ""], 2, "--reason"),
        (because(&["retry"]), 2, "which messages?"),
        (because(&["skip", "--state", "poison"]), 2, "--all"),
        (because(&["retry", "--all", "--state", "behind"]), 2, "in state behind"),
        (because(&["skip", "--all", "--state", "skipped"]), 2, "in state skipped"),
        (because(&["purge", "--all"]), 2, "--yes"),
        (vec!["list", "--older-than", "soon"], 2, "30s, 15m, 2h or 7d"),
        (vec!["list", "--key", "a"], 2, "AGGREGATETYPE/AGGREGATEID"),
        (vec!["list", "--after", "7"], 2, "SEQ:ID"),
        (vec!["list", "--source", "other"], 2, "sources: main"),
        (vec!["show", "7"], 2, "7"),
        (vec!["show", &unknown], 6, "no such message is parked"),
        (vec!["skip", &behind, "--reason", "because"], 6, "retry or skip that one"),
        (because(&["retry", "--fingerprint", "0000000000000000"]), 6, "fingerprint = 0000000000000000"),
        (because(&["retry", "--all", "--dry-run"]), 0, "would retry 3 messages of 2 keys"),
    ] {
        let (code, said) = place.parked(&arguments).await;
        assert_eq!(code, expected, "{arguments:?}: {said}");
        says(&said, &[text]);
    }
    assert_eq!(place.number("SELECT count(*) FROM relay_audit").await, 0, "nothing was changed");
    let (code, help) = place.parked(&["--help"]).await;
    assert_eq!(code, 0);
    says(&help, &["list", "groups", "show", "retry", "skip", "purge", "behind", "barid-relay parked groups"]);

    let text = std::fs::read_to_string(place.config()).unwrap();
    let two = format!("{text}\n[source.second]\nurl = {:?}\n", place.url);
    let unreachable = text.replace(&place.url, "postgres://nobody@127.0.0.1:1/nothing");
    for (config, expected, said) in [
        (two.as_str(), 2, "main, second"),
        ("[source.main]\nulr = \"x\"\n", 3, "ulr"),
        (unreachable.as_str(), 4, "127.0.0.1:1"),
    ] {
        std::fs::write(place.config(), config).unwrap();
        let (code, text) = place.parked(&["list"]).await;
        assert_eq!(code, expected, "{text}");
        says(&text, &[said]);
    }
    std::fs::write(place.config(), &text).unwrap();
    place.execute("DELETE FROM barid_schema WHERE version = 11").await;
    let (code, said) = place.parked(&["list"]).await;
    assert_eq!(code, 5, "{said}");
    says(&said, &["0011_parked", "barid-relay schema apply"]);
}

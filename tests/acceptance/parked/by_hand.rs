//! Rows that somebody wrote by hand and wrongly: each is parked with a reason, the others flow, and whoever repairs the cause
//! gets them sent.

use serde_json::Value;
use uuid::Uuid;

use barid_tests::place::{Hand, KINDS, Kind, PATIENCE, Place};

fn messages(list: &Value) -> &Vec<Value> {
    list["messages"].as_array().unwrap()
}

#[tokio::test]
async fn each_is_parked_with_a_reason_and_the_others_flow() {
    for kind in KINDS {
        let place = Place::new(kind).await;
        let (there, twice) = (format!("queue:{}", place.there), Uuid::now_v7());
        let hands = [
            (Hand::new("topic:nowhere", "unrouted", "1"), "no route for destination \"topic:nowhere\""),
            (Hand::new("shipping", "wrong", "2"), "\"shipping\" is neither"),
            (
                Hand { headers: Some("[1, 2]"), ..Hand::new(&there, "list", "3") },
                "headers are not a JSON object",
            ),
            (
                Hand { headers: Some(r#"{"n": 7}"#), ..Hand::new(&there, "number", "4") },
                "headers are not a JSON object",
            ),
            (
                Hand { key: None, ..Hand::new("topic:elsewhere", "", "5") },
                "no route for destination \"topic:elsewhere\"",
            ),
            // Ids are made by applications, and nothing keeps one from using the same one twice.
            (Hand { id: Some(twice), ..Hand::new("topic:nowhere", "twice", "6") }, "no route"),
            (Hand { id: Some(twice), ..Hand::new("topic:nowhere", "twice too", "7") }, "no route"),
        ];
        for (hand, _) in &hands {
            place.insert(hand).await;
        }
        // These are in order: without a key, with the id of a parked one, and with the key of one that is held.
        place.insert(&Hand { key: None, ..Hand::new(&there, "", "unordered") }).await;
        place.insert(&Hand { id: Some(twice), ..Hand::new(&there, "third", "same id") }).await;
        place.insert(&Hand::new(&there, "wrong", "behind")).await;
        place.insert(&Hand::new(&there, "fine", "fine")).await;
        let relay = place.relay();
        place.until_parked(8).await;
        assert!(relay.terminate(PATIENCE).await.0.success());
        let mut bodies: Vec<String> =
            place.received(&place.there, 3).await.into_iter().map(|copy| copy.body).collect();
        bodies.sort();
        assert_eq!(bodies, ["fine", "same id", "unordered"], "{kind:?}");

        let list = place.json(&["list"]).await;
        for (at, (hand, reason)) in hands.iter().enumerate() {
            let message = &messages(&list)[at];
            assert_eq!(message["state"], "poison", "{kind:?}: {message}");
            assert_eq!(message["destination"], hand.destination);
            assert!(message["error"].as_str().unwrap().contains(reason), "{kind:?}: {message}");
            assert!(message["fingerprint"].as_str().unwrap().len() == 16, "{message}");
        }
        assert_eq!(messages(&list)[7]["state"], "behind", "{kind:?}: {list}");
        assert_eq!(messages(&place.json(&["show", &twice.to_string()]).await).len(), 2, "both of one id");

        let groups = place.json(&["groups", "--state", "poison"]).await;
        let sizes: Vec<i64> = groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| group["messages"].as_i64().unwrap())
            .collect();
        assert_eq!(sizes.iter().sum::<i64>(), 7);
        assert_eq!(sizes[0], 3, "{kind:?}: topic:nowhere three times is one group: {groups}");
    }
}

/// The queue that was forgotten is declared, and the messages of one group are sent: with their ids, and in order.
#[tokio::test]
async fn what_was_repaired_is_sent_again_with_its_id_and_in_order() {
    for kind in KINDS {
        let place = Place::new(kind).await;
        let (there, missing) = (format!("queue:{}", place.there), format!("queue:{}", place.missing));
        let mut relay = place.relay();
        relay.line_with("claimed the outbox", PATIENCE).await;
        let first = place.insert(&Hand::new(&missing, "a", "1")).await;
        place.until_parked(1).await;
        place.insert(&Hand::new(&there, "a", "2")).await;
        place.insert(&Hand::new(&missing, "a", "3")).await;
        let other = place.insert(&Hand::new(&missing, "b", "4")).await;
        place.insert(&Hand::new("topic:nowhere", "c", "5")).await;
        place.until_parked(5).await;
        let list = place.json(&["list", "--key", "order/a"]).await;
        let states: Vec<&str> =
            messages(&list).iter().map(|message| message["state"].as_str().unwrap()).collect();
        assert_eq!(states, ["poison", "behind", "behind"]);

        place.declare(&place.missing).await;
        let fingerprint = messages(&list)[0]["fingerprint"].as_str().unwrap().to_owned();
        let retry = ["retry", "--fingerprint", &fingerprint, "--reason", "queue declared", "--by", "ann"];
        let counted = place.json(&[&retry[..], &["--dry-run"]].concat()).await;
        assert_eq!(
            (&counted["messages"], &counted["keys"], &counted["dry_run"]),
            (&2.into(), &2.into(), &true.into())
        );
        assert_eq!(place.number("SELECT count(*) FROM relay_audit").await, 0, "{kind:?}: only counted");
        assert_eq!(place.number("SELECT count(*) FROM relay_parked").await, 5);

        assert_eq!(place.json(&retry).await["messages"], 2);
        place.until_parked(1).await;
        let sent = place.received(&place.missing, 3).await;
        let of_a: Vec<&str> =
            sent.iter().filter(|copy| copy.key == "a").map(|copy| copy.body.as_str()).collect();
        assert_eq!(of_a, ["1", "3"], "{kind:?}");
        let id = |body: &str| sent.iter().find(|copy| copy.body == body).unwrap().id;
        assert_eq!((id("1"), id("4")), (first, other), "{kind:?}: a message keeps its id");
        assert_eq!(place.received(&place.there, 1).await[0].body, "2");

        let audit = "SELECT count(*) FROM relay_audit WHERE source = 'main' AND who = 'ann' AND action = 'retry' AND messages = 2 \
            AND reason = 'queue declared' AND selection LIKE '%fingerprint = %' AND changed_at IS NOT NULL";
        assert_eq!(place.number(audit).await, 1, "{kind:?}");
        if kind != Kind::Sqlite {
            assert_eq!(place.number("SELECT count(*) FROM relay_audit WHERE db_user <> ''").await, 1);
        }
        // The key flows on as if nothing had been.
        place.insert(&Hand::new(&there, "a", "6")).await;
        assert_eq!(place.received(&place.there, 1).await[0].body, "6", "{kind:?}");
        assert!(relay.terminate(PATIENCE).await.0.success());
    }
}

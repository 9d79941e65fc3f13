//! Where each message is, and what it waits for.

use super::*;

async fn explain(place: &Place, id: Uuid) -> (i32, Value) {
    json(place, &["explain", &id.to_string()]).await
}

/// What is said about the only row of a message.
async fn only(place: &Place, id: Uuid) -> Value {
    let (code, said) = explain(place, id).await;
    assert_eq!((code, said["places"].as_array().unwrap().len()), (0, 1), "{said}");
    assert_eq!(
        (&said["id"], &said["places"][0]["source"]),
        (&id.to_string().into(), &"main".into()),
        "{said}"
    );
    said["places"][0].clone()
}

fn waits_for(place: &Value) -> String {
    place["waits_for"].to_string()
}

#[tokio::test]
async fn a_message_is_found_wherever_it_is() {
    for kind in KINDS {
        let place = place(kind).await;
        let there = format!("queue:{}", place.there);
        let mut ids = Vec::new();
        for (destination, key) in
            [("topic:nowhere", "a"), (there.as_str(), "a"), (&there, "b"), (&there, "b"), (&there, "c")]
        {
            ids.push(place.insert(&Hand::new(destination, key, "{}")).await);
        }
        // No relay has been here.
        let first = only(&place, ids[0]).await;
        assert_eq!(
            (&first["place"], &first["route"]),
            (&"waiting".into(), &Value::Null),
            "{kind:?}: {first}"
        );
        let waits = waits_for(&first);
        assert!(
            waits.contains("a [[route]]") && waits.contains("none works on source main"),
            "{kind:?}: {waits}"
        );
        let fourth = only(&place, ids[3]).await;
        assert_eq!(fourth["before"], serde_json::json!({"messages": 3, "of_its_key": 1}), "{kind:?}");
        assert!(waits_for(&fourth).contains("1 message of its key"), "{kind:?}: {fourth}");
        assert_eq!(fourth["route"], serde_json::json!({"destination": "queue:*", "sink": "out"}), "{kind:?}");
        let (code, said) = place.command(&["explain", &ids[4].to_string()]).await;
        assert_eq!(code, 0);
        for text in
            ["waits in the outbox", "order/c", "4 messages; of its key 0", "by route \"queue:*\" to sink out"]
        {
            assert!(said.contains(text), "{kind:?}: {text:?} is not in\n{said}");
        }

        let mut relay = place.relay();
        relay.line_with("claimed the outbox", PATIENCE).await;
        until_archived(&place, 3).await;
        place.until_parked(2).await;
        let poison = only(&place, ids[0]).await;
        assert_eq!((&poison["place"], &poison["state"]), (&"parked".into(), &"poison".into()), "{kind:?}");
        assert!(poison["error"].as_str().unwrap().contains("topic:nowhere"), "{kind:?}: {poison}");
        let behind = only(&place, ids[1]).await;
        assert_eq!(behind["held_by"]["id"], ids[0].to_string(), "{kind:?}: {behind}");
        assert!(waits_for(&behind).contains("barid-relay parked retry"), "{kind:?}: {behind}");
        let archived = only(&place, ids[3]).await;
        assert_eq!(archived["place"], "archived", "{kind:?}: {archived}");
        assert!(archived["published_at"].as_str() >= archived["created_at"].as_str(), "{kind:?}: {archived}");
        let (code, said) = place.command(&["explain", &ids[3].to_string()]).await;
        assert!(code == 0 && said.contains("was published at ") && said.contains("in the archive"), "{said}");

        // The relay is stopped, and one is replayed.
        assert!(relay.terminate(PATIENCE).await.0.success());
        let (id, why) = (ids[3].to_string(), "restored");
        assert_eq!(place.command(&["replay", &id, "--reason", why]).await.0, 0);
        let waiting = only(&place, ids[3]).await;
        assert_eq!(waiting["place"], "waiting", "{kind:?}: {waiting}");
        assert!(waits_for(&waiting).contains("released"), "{kind:?}: {waiting}");

        let (code, said) = explain(&place, Uuid::now_v7()).await;
        assert_eq!((code, said["places"].as_array().unwrap().len()), (6, 0), "{kind:?}");
    }
}

/// Ids are made by applications: two rows of one id are both shown.
#[tokio::test]
async fn each_row_of_an_id_is_shown() {
    let place = place(Kind::Postgres).await;
    let id = Uuid::now_v7();
    let hand = |destination| Hand { id: Some(id), ..Hand::new(destination, "a", "{}") };
    for _ in 0..2 {
        place.insert(&hand("topic:nowhere")).await;
    }
    let (code, said) = explain(&place, id).await;
    assert_eq!((code, said["places"].as_array().unwrap().len()), (0, 2), "{said}");
}

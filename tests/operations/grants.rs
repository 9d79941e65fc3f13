//! `barid-relay grants print`: each role can do its work with what is printed, and not the work of another.

#![allow(clippy::unwrap_used)] // a test

use barid_tests::place::{Hand, Kind, PATIENCE, Place};
use barid_tests::roles::{Roles, as_role, may};
use barid_tests::{Process, eventually};

/// A relay that archives needs more, and the doctor sees when it lacks that.
async fn archive_is_granted(place: &Place, roles: &Roles, as_relay: &str) {
    let archives = as_relay.replace("[source.main]\n", "[source.main]\nafter = \"archive\"\n");
    std::fs::write(place.config(), archives).unwrap();
    assert_eq!(place.command(&["doctor"]).await.0, 0, "{:?}", place.kind);
    let relay =
        if place.kind == Kind::Postgres { roles.relay.clone() } else { format!("'{}'@'%'", roles.relay) };
    place.execute(&format!("REVOKE DELETE ON relay_archive FROM {relay}")).await;
    let (code, said) = place.command(&["doctor"]).await;
    assert!(code == 8 && said.contains("DELETE on relay_archive"), "{:?}: {code}\n{said}", place.kind);
}

/// An operator sees what is in the archive, and replays it once the lines are run that are printed as a comment.
async fn replay_is_granted_apart(place: &Place, printed: &str) {
    let (name, id) = match place.kind {
        Kind::Postgres => ("type", "gen_random_uuid()"),
        _ => ("`type`", "UNHEX(REPLACE(UUID(), '-', ''))"),
    };
    let row = format!(
        "INSERT INTO relay_archive (source, id, seq, created_at, destination, aggregatetype, {name}, headers) \
         VALUES ('main', {id}, 1, '2026-01-01', 'queue:{}', 'order', 'm', '{{}}')",
        place.there
    );
    place.execute(&row).await;
    let replay = ["replay", "--all", "--reason", "tried"];
    assert_eq!(place.command(&[&replay[..], &["--dry-run"]].concat()).await.0, 0);
    let (code, said) = place.command(&replay).await;
    assert!(code == 4 && said.contains("denied"), "{:?}: {code}\n{said}", place.kind);
    let more: Vec<&str> = printed.lines().filter_map(|line| line.strip_prefix("--   ")).collect();
    let (_, more) = more.split_at(more.iter().position(|line| line.starts_with("GRANT DELETE")).unwrap());
    place.execute(&more.join("\n")).await;
    let (code, said) = place.command(&replay).await;
    assert!(code == 0 && said.contains("replay: 1 messages"), "{:?}: {code}\n{said}", place.kind);
    assert_eq!(place.received(&place.there, 1).await.len(), 1);
}

#[tokio::test]
async fn each_role_can_do_its_work_and_no_other() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let place = Place::new(kind).await;
        let roles = Roles::of(&place).await;
        let id = if kind == Kind::Postgres { "gen_random_uuid()" } else { "UNHEX(REPLACE(UUID(), '-', ''))" };
        let name = if kind == Kind::Postgres { "type" } else { "`type`" };
        let insert = format!(
            "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, {name}, payload) VALUES ({id}, 'queue:{}', \
             'order', 'a', 'm', '1')",
            place.there
        );
        may(
            &place,
            &roles.app,
            &[&insert],
            &[
                "SELECT * FROM outbox",
                "DELETE FROM outbox",
                "UPDATE outbox SET destination = 'x'",
                "SELECT * FROM relay_parked",
            ],
        )
        .await;
        // A relay that logs in with its role publishes what the application wrote, and parks what cannot be delivered.
        place.insert(&Hand::new("topic:nowhere", "b", "{}")).await;
        let config = std::fs::read_to_string(place.config()).unwrap();
        let section = format!("[source.main]\nurl = {:?}", place.url);
        let as_relay =
            config.replace(&section, &format!("[source.main]\nurl = {:?}", as_role(&place, &roles.relay)));
        assert_ne!(as_relay, config);
        std::fs::write(place.config(), &as_relay).unwrap();
        let relay = place.relay();
        assert_eq!(place.received(&place.there, 1).await.len(), 1);
        place.until_parked(1).await;
        let (code, said) = place.command(&["doctor"]).await;
        assert!(code == 0 && !said.contains("grants") && !said.contains("role"), "{kind:?}: {code}\n{said}");
        archive_is_granted(&place, &roles, &as_relay).await;
        may(
            &place,
            &roles.relay,
            &[],
            &[
                "UPDATE outbox SET payload = NULL",
                "UPDATE outbox SET seq = 1",
                "INSERT INTO relay_audit (source) VALUES ('x')",
                "CREATE TABLE t (id INT)",
                "ALTER TABLE outbox ADD COLUMN x INT",
                "TRUNCATE TABLE outbox",
            ],
        )
        .await;
        // An operator lists it and sends it again; the relay, still at work, parks it once more.
        let as_operator =
            config.replace(&section, &format!("[source.main]\nurl = {:?}", as_role(&place, &roles.operator)));
        std::fs::write(place.config(), &as_operator).unwrap();
        let (code, said) = place.parked(&["list"]).await;
        assert!(code == 0 && said.contains("topic:nowhere"), "{code}\n{said}");
        let (code, said) = place.parked(&["retry", "--all", "--reason", "tried"]).await;
        assert_eq!(code, 0, "{said}");
        let poison = "SELECT count(*) FROM relay_parked WHERE state = 'poison'";
        eventually(PATIENCE, "it is parked again", async || place.number(poison).await == 1).await;
        assert_eq!(place.command(&["status", "--source", "main"]).await.0, 0);
        let dialect = if kind == Kind::Postgres { "postgres" } else { "mysql" };
        replay_is_granted_apart(&place, &roles.printed(&place, dialect).await).await;
        may(
            &place,
            &roles.operator,
            &["SELECT * FROM relay_audit"],
            &[
                "DELETE FROM relay_audit",
                "DELETE FROM outbox",
                "UPDATE relay_source SET epoch = 9",
                "UPDATE relay_audit SET who = 'x'",
            ],
        )
        .await;
        assert!(relay.terminate(PATIENCE).await.0.success());
        roles.drop_from(&place).await;
    }
}

#[tokio::test]
async fn a_role_that_is_no_plain_name_is_refused_and_help_tells_a_newcomer_what_there_is() {
    let place = Place::new(Kind::Sqlite).await;
    let roles = Roles::new();
    assert!(roles.printed(&place, "sqlite").await.contains("chmod 660"));
    let run = async |arguments: &[&str]| {
        let mut process = Process::relay(arguments);
        let status = process.ended(PATIENCE).await;
        (status.code().unwrap_or(-1), process.log().join("\n"))
    };
    let (code, said) =
        run(&["grants", "print", "--dialect", "postgres", "--app", "x\"; DROP TABLE outbox"]).await;
    assert!(code == 2 && said.contains("is no plain name"), "{code} {said}");
    let (code, help) = run(&["--help"]).await;
    assert_eq!(code, 0);
    for command in [
        "run",
        "check",
        "status",
        "doctor",
        "schema",
        "grants",
        "parked",
        "replay",
        "explain",
        "version",
        "completions",
    ] {
        let line = |line: &str| line.split_whitespace().next() == Some(command);
        assert!(help.lines().any(line), "{command} is not in\n{help}");
        assert_eq!(run(&[command, "--help"]).await.0, 0, "{command}");
    }
    let (code, said) = run(&["version", "--output", "json"]).await;
    let version: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(code == 0 && version["features"].as_array().unwrap().contains(&"postgres".into()), "{said}");
    for shell in ["bash", "zsh", "fish"] {
        let (code, script) = run(&["completions", shell]).await;
        assert!(
            code == 0 && script.contains("doctor") && script.contains("barid-relay"),
            "{shell}: {script}"
        );
    }
}

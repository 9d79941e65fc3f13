//! The files under `relay/ops`: rules that Prometheus takes, and names that the relay exports.

#![allow(clippy::unwrap_used)] // a test

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use barid_relay::metrics::{ALL, Kind};
use barid_tests::promtool;

fn ops() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("relay/ops")
}

fn text(file: &str) -> String {
    std::fs::read_to_string(ops().join(file)).unwrap()
}

/// Every name of a metric in a text.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("barid_relay_")).map(str::to_owned).collect()
}

#[test]
fn prometheus_takes_the_alerts_and_they_are_raised_by_what_they_are_for() {
    for arguments in [&["check", "rules", "alerts.yml"][..], &["test", "rules", "alerts_test.yml"]] {
        let checked = promtool(arguments, Path::new("/dev/null"), &ops());
        let (said, errors) = (checked.stdout, checked.stderr);
        let said = String::from_utf8_lossy(&said).into_owned() + &String::from_utf8_lossy(&errors);
        assert!(checked.status.success() && said.contains("SUCCESS"), "{arguments:?}: {said}");
    }
}

#[test]
fn each_alert_is_tested() {
    let (alerts, tests) = (text("alerts.yml"), text("alerts_test.yml"));
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 15, "{names:?}");
    for name in names {
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name} is not in alerts_test.yml");
    }
}

#[test]
fn rules_and_board_name_metrics_that_there_are_and_the_readme_explains_them_all() {
    let mut exported = BTreeSet::new();
    for metric in ALL {
        match metric.kind {
            Kind::Histogram => {
                exported.extend(["_bucket", "_sum", "_count"].map(|part| format!("{}{part}", metric.name)));
            }
            Kind::Counter | Kind::Gauge => {
                exported.insert(metric.name.to_owned());
            }
        }
    }
    for file in ["alerts.yml", "alerts_test.yml", "grafana.json"] {
        let named = named(&text(file));
        assert!(named.len() >= 10, "{file} names {named:?}");
        let unknown: Vec<_> = named.difference(&exported).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}, which no relay exports");
    }
    let explained = named(&text("README.md"));
    let missing: Vec<_> = ALL.iter().filter(|metric| !explained.contains(metric.name)).collect();
    assert!(missing.is_empty(), "relay/ops/README.md does not explain {missing:?}");
}

#[test]
fn the_board_is_one_that_grafana_imports() {
    let board: serde_json::Value = serde_json::from_str(&text("grafana.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    assert!(panels.len() >= 8 && board["title"].is_string() && board["uid"].is_string());
    let mut places = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap() {
            assert!(!named(target["expr"].as_str().unwrap()).is_empty(), "{title} shows nothing of ours");
        }
        let at = &panel["gridPos"];
        assert!(at["x"].as_u64().unwrap() + at["w"].as_u64().unwrap() <= 24, "{title} is too wide");
        assert!(places.insert((at["y"].as_u64(), at["x"].as_u64())), "{title} covers another panel");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
    }
}

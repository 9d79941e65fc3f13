//! `docs/security.md`: each control has a line, and a line that names tests names such as there are.

use std::{collections::BTreeMap, fs, path::Path};

use super::{code, sources};

const LIST: &str = include_str!("../../../docs/security.md");

/// How many controls there are: X1 to X29.
const CONTROLS: usize = 29;

/// Control and what shows it: the first and the last cell of each line that begins with `| X`.
fn listed() -> Vec<(usize, &'static str)> {
    let line = |line: &'static str| {
        let cells: Vec<_> =
            line.strip_prefix("| X")?.trim_end_matches('|').split(" | ").map(str::trim).collect();
        Some((cells.first()?.parse().ok()?, *cells.last()?))
    };
    LIST.lines().filter_map(line).collect()
}

/// The sources of each program that runs tests, by the name that `docs/security.md` gives it.
fn programs() -> BTreeMap<String, Vec<String>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest: toml::Table = fs::read_to_string(manifest).unwrap().parse().unwrap();
    let of = |table: &toml::Value, key: &str| table[key].as_str().unwrap().to_owned();
    let mut programs: BTreeMap<String, Vec<String>> = manifest["test"]
        .as_array()
        .unwrap()
        .iter()
        .map(|test| {
            let path = of(test, "path");
            let folder = format!("tests/{}", path.trim_end_matches(".rs"));
            let mut texts =
                vec![fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path)).unwrap()];
            if Path::new(env!("CARGO_MANIFEST_DIR")).join(path.trim_end_matches(".rs")).is_dir() {
                texts.extend(sources(&[&folder]).into_iter().map(|(_, text)| text));
            }
            (of(test, "name"), texts)
        })
        .collect();
    for (name, folder) in [
        ("barid", "framework/src"),
        ("barid_relay", "relay/src"),
        ("cli", "relay/tests"),
        ("dependencies", "examples/tests"),
    ] {
        programs.insert(name.to_owned(), sources(&[folder]).into_iter().map(|(_, text)| text).collect());
    }
    programs
}

/// Whether there is a function of this name below an attribute that makes it a test that is run.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = code(text).collect();
    let signatures = [format!("fn {name}("), format!("async fn {name}(")];
    lines.iter().enumerate().any(|(at, line)| {
        let attributes: Vec<_> = lines[..at].iter().rev().take_while(|line| line.starts_with("#[")).collect();
        let test = |line: &&&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        signatures.iter().any(|signature| line.starts_with(signature))
            && attributes.iter().any(test)
            && !attributes.iter().any(|line| line.starts_with("#[ignore"))
    })
}

#[test]
fn every_security_control_has_a_line_and_its_tests_exist() {
    let (listed, programs) = (listed(), programs());
    let numbers: Vec<usize> = listed.iter().map(|(number, _)| *number).collect();
    assert_eq!(
        numbers,
        (1..=CONTROLS).collect::<Vec<_>>(),
        "docs/security.md has one line for each, in order"
    );
    for (number, shown) in listed {
        let tests: Vec<&str> =
            shown.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
        let argued = ["does not apply: ", "not by a test: "].iter().any(|why| {
            shown.split_once(why).is_some_and(|(_, reason)| reason.split_whitespace().count() >= 3)
        });
        assert!(!tests.is_empty() || argued, "X{number} names no test and says not why: {shown}");
        for test in tests {
            let (program, name) = test.split_once("::").unwrap();
            let texts = programs
                .get(program)
                .unwrap_or_else(|| panic!("X{number}: no program {program:?} of {test}"));
            assert!(
                texts.iter().any(|text| has_test(text, name)),
                "X{number}: {program} runs no test {name:?}"
            );
        }
    }
}

/// X24: no crate of ours has unsafe code, and none leaves the rules of the workspace.
#[test]
fn every_crate_keeps_the_lints_of_the_workspace() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let manifest = |folder: &str| -> toml::Table {
        fs::read_to_string(root.join(folder).join("Cargo.toml")).unwrap().parse().unwrap()
    };
    let workspace = &manifest("")["workspace"];
    assert_eq!(workspace["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    for member in workspace["members"].as_array().unwrap() {
        let member = member.as_str().unwrap();
        assert_eq!(manifest(member)["lints"]["workspace"].as_bool(), Some(true), "{member}");
    }
}

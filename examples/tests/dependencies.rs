//! What the quickstart compiles: a newcomer needs the Rust toolchain and a C compiler, and no client of a broker.

use std::process::Command;

/// `cargo tree` of what `cargo run --example quickstart` builds, without looking anything up on the net.
fn tree(arguments: &[&str]) -> String {
    let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    cargo.args(["tree", "--offline", "--locked", "--edges", "normal,build,dev,features"]).args(arguments);
    let tree =
        cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).output().expect("cargo can be run");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    String::from_utf8_lossy(&tree.stdout).into_owned()
}

#[test]
fn the_quickstart_has_no_broker_client() {
    // Without a package: all default members together, as the command that newcomers type builds them.
    for arguments in [&[][..], &["--package", "barid-examples"]] {
        let tree = tree(arguments);
        assert!(tree.contains("libsqlite3-sys"), "{tree}");
        for foreign in ["rdkafka", "lapin", "sqlx-postgres", "sqlx-mysql", "openssl", "rustls"] {
            let found = tree.lines().find(|line| line.contains(foreign));
            assert!(found.is_none(), "{foreign} in {arguments:?}: {}", found.unwrap_or_default());
        }
    }
}

#[test]
fn the_kafka_program_has_one() {
    assert!(tree(&["--package", "barid-examples", "--features", "kafka"]).contains("rdkafka-sys"));
}

//! What `relay/deploy` ships works: the image's steps, the unit of systemd, and the manifests for Kubernetes.

#![allow(clippy::unwrap_used, missing_docs)] // a test

#[path = "deploy/image.rs"]
mod image;
#[path = "deploy/manifest.rs"]
mod manifest;

use std::path::{Path, PathBuf};

use barid_tests::http::Client;
use barid_tests::place::{Kind, PATIENCE, Place};
use barid_tests::{Process, servers};
use tempfile::TempDir;
use tokio::process::Command;

use self::manifest::{Manifest, text_at};

/// A file of `relay/`.
fn shipped(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../relay").join(name);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

async fn admin_of(relay: &mut Process) -> Client {
    let line = relay.line_with("listening for /livez", PATIENCE).await;
    let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let address: std::net::SocketAddr =
        address.unwrap_or_else(|| panic!("no address in {line}")).parse().unwrap();
    Client::new(([127, 0, 0, 1], address.port()).into())
}

/// What is mounted into a container of the relay: its configuration, with the secrets that it names.
struct Mounted {
    place: Place,
    folder: TempDir,
}

impl Mounted {
    /// The configuration of a manifest, on servers that there are, and with files instead of mounts.
    async fn of(manifest: &Manifest) -> Self {
        let (place, folder) = (Place::new(Kind::Postgres).await, tempfile::tempdir().unwrap());
        let mounted = Self { place, folder };
        for (name, text) in [
            ("source-url", mounted.place.url.clone()),
            ("sink-url", servers::amqp()),
            ("admin-token", "0123456789abcdef0123456789abcdef".to_owned()),
        ] {
            std::fs::write(mounted.folder.path().join(name), text).unwrap();
        }
        let here = mounted.folder.path().to_str().unwrap();
        let config = manifest.config().replace("/run/secrets/barid/", &format!("{here}/"));
        let config = config.replace("/run/barid/", &format!("{here}/")).replace(":7118\"", ":0\"");
        // The server of the tests has no certificate.
        let plain = config.lines().filter(|line| !line.starts_with("ca_file"));
        std::fs::write(mounted.config(), plain.collect::<Vec<_>>().join("\n")).unwrap();
        mounted
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("relay.toml")
    }
}

/// The configuration in a manifest is one that the program takes and works with, and its probes are answered without a token.
#[tokio::test]
async fn the_configuration_and_the_probes_of_the_manifests_work() {
    for file in ["deployment.yaml", "sidecar.yaml"] {
        let manifest = Manifest::read(&shipped(&format!("deploy/kubernetes/{file}")));
        let mounted = Mounted::of(&manifest).await;
        let config = mounted.config();
        let mut check = Process::relay(["check".as_ref(), "--config".as_ref(), config.as_os_str()]);
        let status = check.ended(PATIENCE).await;
        assert!(status.success(), "{file}: {}", check.log().join("\n"));
        let mut command = Process::relay_command();
        command.args(["run".as_ref(), "--config".as_ref(), config.as_os_str()]);
        command.env("BARID_RELAY__RELAY__INSTANCE", "pod-1");
        let mut relay = Process::start(&mut command);
        let admin = admin_of(&mut relay).await;
        relay.line_with("claimed the outbox", PATIENCE).await;
        let probes = manifest.probes();
        assert!(probes.contains(&"/livez".to_owned()), "{file}: {probes:?}");
        for path in probes {
            assert_eq!(admin.get(&path).await.status, 200, "{file}: {path}");
        }
        assert_eq!(admin.get("/metrics").await.status, 401, "{file}: the metrics need the token");
        let owner = "SELECT count(*) FROM relay_source WHERE owner LIKE 'pod-1%'";
        assert_eq!(mounted.place.number(owner).await, 1, "{file}: the instance has the name of the pod");
        assert!(relay.terminate(PATIENCE).await.0.success());
    }
}

/// What the restricted profile of Kubernetes demands, what the program needs, and that all names meet.
#[test]
fn the_manifests_are_restricted_and_consistent() {
    let readme = shipped("README.md");
    for file in ["deployment.yaml", "sidecar.yaml"] {
        let manifest = Manifest::read(&shipped(&format!("deploy/kubernetes/{file}")));
        manifest.assert_restricted();
        manifest.assert_names_meet();
        for secret in manifest.secrets() {
            let made = format!("--from-file={secret}=");
            assert!(readme.contains(&made), "{file}: relay/README.md does not say how to make {secret}");
        }
        let pod = manifest.pod();
        let grace = pod["terminationGracePeriodSeconds"].as_i64().unwrap();
        assert!(grace * 1_000 > manifest.drain_ms(), "{file}: it is killed while it drains");
        assert_eq!(manifest.deployment()["spec"]["replicas"].as_i64(), Some(2), "{file}");
        assert_eq!(pod["enableServiceLinks"].as_bool(), Some(false), "{file}: variables of services");
        assert_eq!(pod["automountServiceAccountToken"].as_bool(), Some(false), "{file}");
        assert!(text_at(manifest.relay(), "image").contains(':'), "{file}: an image has a version");
        assert!(
            readme.contains(&format!("deploy/kubernetes/{file}")),
            "relay/README.md does not name {file}"
        );
    }
    // A relay beside an application must not take it out of service.
    let sidecar = Manifest::read(&shipped("deploy/kubernetes/sidecar.yaml"));
    for probe in ["readinessProbe", "startupProbe"] {
        assert!(sidecar.relay()[probe].is_badvalue(), "{probe} of a sidecar");
    }
    assert_eq!(text_at(sidecar.relay(), "restartPolicy"), "Always");
}

/// systemd takes the unit, and finds it locked up.
#[tokio::test]
async fn the_unit_is_one_that_systemd_takes() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("barid-relay.service");
    let text = shipped("deploy/barid-relay.service");
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    let (program, arguments) = line("ExecStart").unwrap().split_once(' ').unwrap();
    assert_eq!((program, arguments), ("/usr/local/bin/barid-relay", "run --config /etc/barid/relay.toml"));
    assert_eq!(line("RestartPreventExitStatus"), Some("2 3 5"), "what trying again cannot repair");
    let binary = Process::relay_command().as_std().get_program().to_str().unwrap().to_owned();
    std::fs::write(&unit, text.replace(program, &binary)).unwrap();
    let analyze = async |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(&unit).output().await;
        output.map(|output| {
            let said = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&said).into_owned())
        })
    };
    match analyze(&["verify"]).await {
        Ok((good, said)) => assert!(good && !said.contains("barid-relay.service:"), "{said}"),
        Err(error) => return eprintln!("systemd-analyze: {error}; the unit is not verified on this machine"),
    }
    // From 0, locked up, to 100, free to do everything.
    let (good, said) =
        analyze(&["security", "--offline=true", "--threshold=20", "--no-pager"]).await.unwrap();
    assert!(good, "{said}");
}

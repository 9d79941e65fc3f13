//! The steps of the Dockerfile in a plain folder: the program copied out, started by nobody in particular on a tree that he cannot write.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use barid_tests::place::{Hand, Kind, PATIENCE, Place};
use barid_tests::{Process, eventually};
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::process::Command;

use super::shipped;

/// What the base image has beside the program: the C library and what comes with the compiler.
const IN_THE_IMAGE: [&str; 6] =
    ["linux-vdso.so", "ld-linux", "libc.so", "libm.so", "libgcc_s.so", "libstdc++.so"];

/// The lines of the last stage.
struct Stage {
    copied: (String, String),
    environment: Vec<(String, String)>,
    user: u32,
    group: u32,
    command: Vec<String>,
}

impl Stage {
    fn read() -> Self {
        let text = shipped("deploy/Dockerfile");
        let last = text.rsplit("\nFROM ").next().unwrap();
        let all = |name: &str| -> Vec<String> {
            let prefix = format!("{name} ");
            last.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
        };
        let words = |name: &str| -> Vec<String> { serde_json::from_str(&all(name)[0]).unwrap() };
        let copy = all("COPY")[0].strip_prefix("--from=build ").unwrap().to_owned();
        let (from, to) = copy.split_once(' ').unwrap();
        let (user, group) =
            all("USER")[0].split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let pair = |line: String| line.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        Self {
            copied: (from.to_owned(), to.to_owned()),
            environment: all("ENV").into_iter().map(pair).collect(),
            user: user.parse().unwrap(),
            group: group.parse().unwrap(),
            command: [words("ENTRYPOINT"), words("CMD")].concat(),
        }
    }
}

/// The tree of a container, with its configuration mounted.
struct Container {
    stage: Stage,
    root: TempDir,
}

impl Container {
    fn build(config: &str) -> Self {
        let (stage, root) = (Stage::read(), tempfile::tempdir().unwrap());
        let container = Self { stage, root };
        let binary = PathBuf::from(Process::relay_command().as_std().get_program());
        assert!(container.stage.copied.0.ends_with("/release/barid-relay"));
        let program = container.path(&container.stage.copied.1);
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::copy(binary, &program).unwrap();
        let file = container.path("/etc/barid/relay.toml");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, config).unwrap();
        container.mode(0o555, 0o444);
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o555)).unwrap();
        container
    }

    /// Where a path of the container is.
    fn path(&self, inside: &str) -> PathBuf {
        self.root.path().join(inside.trim_start_matches('/'))
    }

    fn mode(&self, folders: u32, files: u32) {
        let mut pending = vec![self.root.path().to_path_buf()];
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                // Writable while it is walked through, for whoever is not root.
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
                pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                std::fs::set_permissions(&path, PermissionsExt::from_mode(folders)).unwrap();
            } else {
                std::fs::set_permissions(&path, PermissionsExt::from_mode(files)).unwrap();
            }
        }
    }

    /// A command as the image's user, or as ourselves who are nobody either, with the image's environment alone.
    fn command(&self, program: &Path) -> Command {
        let root =
            std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        let mut command = Command::new(if root { Path::new("setpriv") } else { program });
        if root {
            let Stage { user, group, .. } = &self.stage;
            command.args([format!("--reuid={user}"), format!("--regid={group}")]);
            command.args(["--clear-groups", "--bounding-set=-all", "--no-new-privs", "--"]).arg(program);
        }
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        for (name, value) in &self.stage.environment {
            command.env(name, self.path(value));
        }
        command.current_dir(self.root.path());
        command
    }

    fn start(&self) -> Process {
        let (program, arguments) = self.stage.command.split_first().unwrap();
        Process::start(self.command(&self.path(program)).args(arguments))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.mode(0o755, 0o644);
    }
}

#[tokio::test]
async fn the_image_runs_as_nobody_on_a_tree_that_it_cannot_write_and_drains() {
    const ROWS: usize = 2_000;
    let place = Place::new(Kind::Postgres).await;
    let container = Container::build(&std::fs::read_to_string(place.config()).unwrap());
    let mut tried = container.command(Path::new("touch"));
    let wrote = tried.arg(container.path("/etc/barid/x")).output().await.unwrap();
    assert!(!wrote.status.success(), "the tree can be written");
    let there = format!("queue:{}", place.there);
    let insert = format!(
        "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload) \
         SELECT gen_random_uuid(), '{there}', 'order', (n % 50)::text, 'm', n::text::bytea FROM generate_series(1, {ROWS}) n"
    );
    place.execute(&insert).await;
    let mut relay = container.start();
    relay.line_with("claimed the outbox", PATIENCE).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.id().unwrap())).unwrap();
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap();
    assert!(!user.split('\t').any(|id| id == "0"), "it runs as root: {user}");
    let left = "SELECT count(*) FROM outbox";
    eventually(PATIENCE, "it works", async || place.number(left).await < i64::try_from(ROWS).unwrap()).await;
    let (status, log) = relay.terminate(PATIENCE).await;
    assert!(status.success() && log.iter().any(|line| line.contains("stopping")), "{status}");
    // What was confirmed is deleted, and what is left was not sent.
    let left = usize::try_from(place.number(left).await).unwrap();
    assert_eq!(place.drained(&place.there).await.len() + left, ROWS);
}

/// A clean stop waits for the DELETE, and the DELETE for the lock: time enough for a second signal.
#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let place = Place::new(Kind::Postgres).await;
    let container = Container::build(&std::fs::read_to_string(place.config()).unwrap());
    place.insert(&Hand::new(&format!("queue:{}", place.there), "a", "1")).await;
    let mut lock = PgConnection::connect(&place.url).await.unwrap();
    lock.execute("BEGIN").await.unwrap();
    lock.execute("SELECT id FROM outbox FOR UPDATE").await.unwrap();
    let mut relay = container.start();
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'barid-relay' AND wait_event_type = 'Lock' AND query LIKE 'DELETE%'";
    place.until("the relay waits for its DELETE", blocked, 1).await;
    let signal = async |relay: &Process| {
        let id = relay.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    };
    signal(&relay).await;
    relay.line_with("stopping", PATIENCE).await;
    signal(&relay).await;
    assert_eq!(relay.ended(PATIENCE).await.code(), Some(130), "{}", relay.log().join("\n"));
    lock.close().await.unwrap();
}

/// The program needs no library that the base image has not.
#[tokio::test]
async fn the_program_finds_its_libraries_in_the_image() {
    let dockerfile = shipped("deploy/Dockerfile");
    assert!(dockerfile.contains("FROM gcr.io/distroless/cc-debian12:nonroot"));
    let program = Process::relay_command().as_std().get_program().to_owned();
    let listed = Command::new("ldd").arg(program).output().await.unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let names = listed.lines().filter_map(|line| line.split_whitespace().next()?.rsplit('/').next());
    for name in names {
        // The image's build makes zlib a part of the program; this one may find the system's.
        let zlib = name.starts_with("libz.so") && dockerfile.contains("LIBZ_SYS_STATIC=1");
        let known = IN_THE_IMAGE.iter().any(|known| name.starts_with(known));
        assert!(known || zlib, "{name} is not in the image");
    }
}

//! The points that lie on the wire: a process is killed while a request of its is under way, and the server has done it, never gets
//! it, or gets it when others have recovered already.

use barid::distributed::core::Decision;
use barid_tests::{
    Process, Proxy, eventually,
    transfer::{Bank, Scenario},
};
use tokio::process::Command;

use super::LONG;

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// As `reference/distributed-transactions.md` calls the point.
    point: &'static str,
    /// Which database it goes to: 0 is home.
    to: usize,
    /// What is in it.
    request: &'static str,
    server: Server,
    /// Whether it must have committed.
    commits: bool,
}

/// What the server does with it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Server {
    /// It has done it before the process dies.
    Did,
    /// It never gets it.
    NeverDid,
    /// It gets it when others have decided to abort.
    DoesLate,
}

/// The closing text of a unit of work.
const CLOSING: &str = "RELEASE SAVEPOINT barid_unit";

/// The cases of databases at these addresses, home first.
pub(super) fn cases(urls: &[String]) -> Vec<Case> {
    use Server::{Did, DoesLate, NeverDid};
    let mut all = Vec::new();
    let mut add = |point, to, request, servers: &[Server], commits| {
        all.extend(servers.iter().map(|&server| Case { point, to, request, server, commits }));
    };
    if !urls[0].starts_with("sqlite") {
        // c7 is the same as c8 that was never done: the decision and COMMIT are in one text.
        let decision = "UPDATE dtx_transaction SET decision=CASE";
        add("c8", 0, decision, &[Did], true);
        add("c8", 0, decision, &[NeverDid, DoesLate], false);
    }
    for (to, url) in urls.iter().enumerate().skip(1) {
        let (prepare, commit) = match url.split(':').next().unwrap_or_default() {
            "postgres" | "postgresql" => ("PREPARE TRANSACTION", "COMMIT PREPARED"),
            "mysql" | "mariadb" => ("XA PREPARE", "XA COMMIT"),
            // The first closing text is that of prepare. A commit that was begun and not ended is begun again.
            _ => (CLOSING, "INSERT INTO event_log"),
        };
        add("c4", to, prepare, &[Did, NeverDid, DoesLate], false);
        add("c10", to, commit, &[Did, NeverDid], true);
    }
    all
}

pub(super) async fn one(bank: &Bank, urls: &[String], account: i64, case: Case) {
    let (proxy, urls) = spliced(urls, case.to).await;
    match case.server {
        Server::Did => proxy.hold_after_request(case.request.as_bytes()),
        Server::NeverDid | Server::DoesLate => proxy.hold_before_request(case.request.as_bytes()),
    }
    let mut coordinator = Command::new(env!("CARGO_BIN_EXE_distributed-transfer"));
    coordinator.arg("transfer").arg(account.to_string()).arg(format!("{:?}", Scenario::Yes)).args(urls);
    let mut coordinator = Process::start(&mut coordinator);
    let gid = coordinator.line_with("gid ", LONG).await.trim_start_matches("gid ").parse().unwrap();
    eventually(LONG, &format!("{case:?} is under way"), || async { proxy.fired().len() == 1 }).await;
    coordinator.kill().await;
    if case.server == Server::DoesLate {
        // They may have to wait for what the dead process has locked.
        let recovering = async {
            loop {
                bank.coordinator.recover_once().await.unwrap();
            }
        };
        let decided =
            || async { bank.known(gid).await.is_some_and(|known| known.decision == Some(Decision::Abort)) };
        tokio::select! {
            () = recovering => {}
            () = eventually(LONG, "others decide", decided) => {}
        }
        proxy.deliver_held();
        eventually(LONG, &format!("{case:?}: it is done late"), || async { proxy.delivered() == 1 }).await;
    }
    drop(proxy);
    eventually(LONG, &format!("{case:?} is over"), || async {
        bank.coordinator.recover_once().await.unwrap();
        bank.known(gid).await.is_none_or(|known| known.finished) && bank.prepared().await == 0
    })
    .await;
    assert_eq!(bank.happened(account).await, case.commits, "{} of {case:?}", case.point);
}

/// The same addresses, with a proxy in front of one.
async fn spliced(urls: &[String], at: usize) -> (Proxy, Vec<String>) {
    let mut urls = urls.to_vec();
    let (kind, url) = urls[at].split_at(if urls[at].starts_with("events+") { "events+".len() } else { 0 });
    let (proxy, through) = Proxy::in_front_of(url).await;
    urls[at] = format!("{kind}{through}");
    (proxy, urls)
}

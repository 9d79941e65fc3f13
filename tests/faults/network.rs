//! Faults of the network, on both sides of the relay: rows F74, F75 and F76 of the fault table. Two wires stand between the
//! relay and its servers; the load and the tape go past them.

#![allow(clippy::unwrap_used)] // a test

use std::time::Duration;

use barid_tests::{
    Process, Wire,
    dice::Dice,
    ledger::Fault,
    load::Loading,
    outbox::{Database, Outbox},
    proxy::Quality,
    rig::{PATIENCE, Rig, WINDOW},
    servers,
    tape::Tape,
};

/// A relay between two wires, at work.
struct Wired {
    rig: Rig,
    to_database: Wire,
    to_broker: Wire,
    load: Loading,
    relay: Process,
}

impl Wired {
    async fn new(database: Database) -> Self {
        let (to_broker, amqp) = Wire::in_front_of(&servers::amqp()).await;
        let tape = Tape::rabbitmq(&servers::amqp()).await.through(&amqp);
        let outbox = Outbox::new(database).await;
        let (to_database, source_url) = Wire::in_front_of(&outbox.url).await;
        let mut rig = Rig::new(outbox, tape);
        rig.source_url = source_url;
        let load = rig.load().start().await;
        let relay = rig.relay_at_work().await;
        Self { rig, to_database, to_broker, load, relay }
    }

    fn wires(&self) -> [&Wire; 2] {
        [&self.to_database, &self.to_broker]
    }

    fn quality(&self, quality: Quality) {
        self.wires().iter().for_each(|wire| wire.quality(quality));
    }

    /// What shows that both wires were bad.
    fn spoilt(&self) -> String {
        let [database, broker] = self.wires().map(Wire::carried);
        assert!(database.spoilt > 0 && broker.spoilt > 0, "{database:?} {broker:?}");
        format!("{} pieces to the database, {} to the broker", database.spoilt, broker.spoilt)
    }

    async fn settle(self, window: usize, faults: Vec<Fault>) {
        // The wires live until the relay has ended.
        self.rig.settle(self.load, self.relay, window, faults).await.assert_promises();
    }
}

/// Work for a while on two bad wires, and the rest on good ones. Nobody gives up, so nothing comes twice.
async fn slowly(database: Database, what: &str, quality: Quality) {
    let wired = Wired::new(database).await;
    wired.quality(quality);
    wired.load.more(if servers::long() { 5_000 } else { 300 }).await;
    // Something must get through while it lasts.
    let before = wired.to_broker.carried().bytes;
    let through = || async { wired.to_broker.carried().bytes > before + 2_000 };
    barid_tests::eventually(PATIENCE, "rows travel on bad wires", through).await;
    wired.quality(Quality::default());
    let faults = vec![Fault::new(what, wired.spoilt())];
    wired.settle(0, faults).await;
}

#[tokio::test]
async fn f74_latency_and_jitter() {
    let (latency, jitter) = if servers::long() { (500, 200) } else { (60, 40) };
    let quality = Quality::latency(Duration::from_millis(latency), Duration::from_millis(jitter));
    slowly(Database::Postgres, "everything took longer", quality).await;
}

#[tokio::test]
async fn f74_16_kilobytes_a_second() {
    slowly(Database::MariaDb, "the wires were narrow", Quality::bytes_per_s(16_000)).await;
}

#[tokio::test]
async fn f74_one_byte_at_a_time() {
    slowly(Database::Postgres, "bytes came one by one", Quality::slices(1)).await;
}

/// Connections are reset in the middle of frames and answers, or cut and closed late.
async fn reset(database: Database, what: &str, quality: Quality) {
    let wired = Wired::new(database).await;
    wired.quality(quality);
    let mut faults = Vec::new();
    for _ in 0..if servers::long() { 30 } else { 4 } {
        wired.load.more(100).await;
        wired.wires().iter().for_each(|wire| wire.reset_all());
        // The next reset strikes connections that are used.
        let before = wired.to_broker.carried().bytes;
        let again = || async { wired.to_broker.carried().bytes > before + 10_000 };
        barid_tests::eventually(PATIENCE, "rows travel again", again).await;
        let [database, broker] = wired.wires().map(|wire| wire.carried().resets);
        assert!(database > 0 && broker > 0, "{database} and {broker} resets");
        faults.push(Fault::new(what, format!("{database} and {broker} connections so far")));
    }
    wired.quality(Quality::default());
    wired.settle(WINDOW, faults).await;
}

#[tokio::test]
async fn f74_resets_on_postgres() {
    reset(Database::Postgres, "both wires were reset", Quality::slices(700)).await;
}

#[tokio::test]
async fn f74_resets_on_mariadb() {
    reset(Database::MariaDb, "both wires were reset", Quality::slices(700)).await;
}

#[tokio::test]
async fn f74_slow_close() {
    let late = Quality::slow_close(Duration::from_millis(500));
    reset(Database::Postgres, "both wires were reset, and what ended, ended late", late).await;
}

/// The peers are gone without a word. With `BARID_TEST_LONG=1` the relay has to find out by itself, by its own bounds in
/// time; otherwise the connections are reset after a while, as a router does that has forgotten them.
#[tokio::test]
async fn f74_half_open() {
    let mut wired = Wired::new(Database::Postgres).await;
    wired.load.more(100).await;
    wired.quality(Quality::black_hole());
    wired.load.more(100).await;
    let swallowed = || async { wired.wires().iter().all(|wire| wire.carried().swallowed > 0) };
    barid_tests::eventually(PATIENCE, "the relay talks to nobody", swallowed).await;
    let lost = wired.wires().map(|wire| wire.carried().swallowed);
    if servers::long() {
        wired.relay.line_with("was not answered within", PATIENCE).await;
        wired.quality(Quality::default());
    } else {
        wired.quality(Quality::default());
        wired.wires().iter().for_each(|wire| wire.reset_all());
    }
    wired.load.more(100).await;
    let faults = vec![Fault::new("both peers were gone", format!("{lost:?} bytes never arrived"))];
    wired.settle(WINDOW, faults).await;
}

/// Cuts one of the wires for a while.
async fn partition(cut: impl Fn(&Wired) -> &Wire, says: &str, window: usize) {
    let mut wired = Wired::new(Database::Postgres).await;
    let mut faults = Vec::new();
    for _ in 0..if servers::long() { 20 } else { 2 } {
        wired.load.more(100).await;
        cut(&wired).refuse(true);
        cut(&wired).reset_all();
        let before = cut(&wired).carried().refused;
        let refused = || async { cut(&wired).carried().refused > before + 2 };
        barid_tests::eventually(PATIENCE, "the relay tries again and again", refused).await;
        wired.load.more(100).await;
        cut(&wired).refuse(false);
        let refused = cut(&wired).carried().refused - before;
        let said = wired.relay.line_with(says, PATIENCE).await;
        faults.push(Fault::new("one side could not be reached", format!("{refused} refused; {said}")));
    }
    wired.load.more(100).await;
    wired.settle(window, faults).await;
}

#[tokio::test]
async fn f75_the_database_but_not_the_broker() {
    partition(|wired| &wired.to_broker, "not confirmed; will be sent again", WINDOW).await;
}

#[tokio::test]
async fn f75_the_broker_but_not_the_database() {
    partition(|wired| &wired.to_database, "connecting again", 0).await;
}

/// A name that leads to nobody for a while, and then to the right server again.
#[tokio::test]
async fn f08_a_stale_address() {
    let mut wired = Wired::new(Database::Postgres).await;
    wired.load.more(100).await;
    // A port that nobody listens on: it was free a moment ago.
    let nobody = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    wired.to_database.lead_to(nobody.to_string());
    wired.to_database.reset_all();
    let said = wired.relay.line_with("connecting again", PATIENCE).await;
    wired.load.more(100).await;
    wired.to_database.lead_to(servers::address_of(&wired.rig.outbox.url));
    wired.load.more(100).await;
    wired.settle(0, vec![Fault::new("the address led to nobody", said)]).await;
}

/// Stops the connections one by one until nothing moves, and lets them go again in another order.
#[tokio::test]
async fn f76_swizzle_clog() {
    let wired = Wired::new(Database::Postgres).await;
    let (mut faults, mut dice) = (Vec::new(), Dice::new(76));
    for round in 0..if servers::long() { 30 } else { 3 } {
        wired.load.more(100).await;
        let mut all: Vec<(usize, usize)> = Vec::new();
        for (at, wire) in wired.wires().iter().enumerate() {
            all.extend((0..wire.connections()).map(|connection| (at, connection)));
        }
        shuffle(&mut all, &mut dice);
        for (wire, connection) in &all {
            wired.wires()[*wire].clog(*connection, true);
            wired.load.more(5).await;
        }
        let still = wired.wires().map(|wire| wire.carried().bytes);
        wired.load.more(50).await;
        assert_eq!(wired.wires().map(|wire| wire.carried().bytes), still, "something moves, round {round}");
        shuffle(&mut all, &mut dice);
        for (wire, connection) in &all {
            wired.wires()[*wire].clog(*connection, false);
            wired.load.more(5).await;
        }
        let evidence = format!("{} connections, and nothing moved", all.len());
        faults.push(Fault::new("all connections were stopped one by one", evidence));
    }
    // They were slower than anything, and no bound in time was reached: nothing came twice.
    wired.settle(0, faults).await;
}

fn shuffle<T>(all: &mut [T], dice: &mut Dice) {
    for at in (1..all.len()).rev() {
        let other = dice.below(at as u64 + 1);
        all.swap(at, usize::try_from(other).unwrap());
    }
}

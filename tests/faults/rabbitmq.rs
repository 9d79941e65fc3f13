//! Faults of RabbitMQ: rows F46 to F60 of the fault table. Every test has a node of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "rabbitmq/full.rs"]
mod full;
#[path = "rabbitmq/node.rs"]
mod node;
#[path = "rabbitmq/one_key.rs"]
mod one_key;
#[path = "rabbitmq/refusals.rs"]
mod refusals;
#[path = "rabbitmq/refused_rows.rs"]
mod refused_rows;

use barid::{Destination, RabbitMq, Transport as _, transport::Inbox};
use barid_tests::{
    dice::Dice,
    ledger::Fault,
    rig::{PATIENCE, WINDOW},
    servers,
    tape::Tape,
};
use node::{CONFIRM_TIMEOUT, Node, ROOM, caught_up, said, says, seen};

const LOST: &str = "no connection for publishing";
const OVERDUE: &str = "no confirm; opening another channel";

/// F46, F47, F48: the node is killed, frozen, and throws everybody out, in an order that the seed decides.
#[tokio::test]
async fn f46_f47_f48_the_node_fails_and_comes_back() {
    let seed = 46;
    let mut dice = Dice::new(seed);
    let node = Node::start("").await;
    let rig = node.rig().await;
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    let mut faults = Vec::new();
    for round in 0..if servers::long() { 12 } else { 3 } {
        load.more(100).await;
        let kind = if round < 3 { round } else { dice.below(3) };
        let (fault, text) = match kind {
            0 => {
                let pid = node.server.pid();
                let what = format!("F46: process {pid} of RabbitMQ was killed with signal 9");
                (seen(&relay, &what, LOST, node.server.crash()).await, "connected again")
            }
            1 => (seen(&relay, "F47: RabbitMQ was frozen", OVERDUE, node.server.freeze()).await, ""),
            _ => {
                let close = async { drop(node.ctl(&["close_all_connections", "fault test"]).await) };
                (seen(&relay, "F48: all connections were closed", LOST, close).await, "connected again")
            }
        };
        faults.push(fault);
        let connected = said(&relay, text);
        match kind {
            0 => node.server.start().await,
            1 => node.server.thaw().await,
            _ => {}
        }
        if kind == 0 {
            says(&relay, text, connected).await;
        }
        caught_up(&rig).await;
    }
    load.more(100).await;
    // A frozen node may lose its connection, too, when it is woken late: that is one more event.
    faults.push(Fault::new("whatever followed from them", format!("seed {seed}")));
    let ledger = rig.settle(load, relay, WINDOW, faults).await;
    ledger.assert_promises();
}

/// F49, F50: an alarm stops publishers for longer than a confirm may take. Nothing is sent twice, and nobody gives up.
#[tokio::test]
async fn f49_f50_an_alarm_stops_the_clocks() {
    let node = Node::start("").await;
    let rig = node.rig().await;
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    load.more(200).await;
    let alarms = [
        (
            "F49: memory alarm",
            ["set_vm_memory_high_watermark", "0.000001"],
            ["set_vm_memory_high_watermark", "0.4"],
        ),
        ("F50: disk alarm", ["set_disk_free_limit", "900000GB"], ["set_disk_free_limit", "50MB"]),
    ];
    let mut faults = Vec::new();
    for (what, raise, clear) in alarms {
        let raised = async { drop(node.ctl(&raise).await) };
        let fault = seen(&relay, what, "the broker blocks publishers", raised).await;
        let waiting = rig.outbox.left().await;
        // Not a wait for something: this is how long the fault lasts.
        tokio::time::sleep(3 * CONFIRM_TIMEOUT).await;
        assert!(rig.outbox.left().await >= waiting, "nothing leaves while the alarm lasts");
        let taken = said(&relay, "the broker takes messages again");
        node.ctl(&clear).await;
        says(&relay, "the broker takes messages again", taken).await;
        caught_up(&rig).await;
        faults.push(fault);
    }
    for text in [OVERDUE, LOST, "will be sent again"] {
        assert_eq!(said(&relay, text), 0, "{text}: the clocks did not stand still");
    }
    let ledger = rig.settle(load, relay, 0, faults).await;
    ledger.assert_promises();
}

/// F51, F52, F60: what a topic leads to goes away under load. What was committed meanwhile is parked with the reason.
#[tokio::test]
async fn f51_f52_f60_a_topic_that_leads_nowhere_parks_its_rows() {
    let node = Node::start("").await;
    let broker = RabbitMq::connect(&node.server.url).await.unwrap();
    for (what, exchange) in
        [("F51, F60: nothing is bound to the topic any more", false), ("F52: the topic was deleted", true)]
    {
        let topic = barid_tests::names::unique("faulty");
        let mut tape = Tape::rabbitmq_topic(&broker, &topic).await;
        tape = tape.through(&node.server.url);
        let bindings = node.ctl(&["-q", "list_bindings", "source_name", "destination_name"]).await;
        let queue = bindings.lines().find_map(|line| line.strip_prefix(&topic)?.split_whitespace().next());
        let queue = queue.unwrap().to_owned();
        let rig = node.rig_with(tape).await;
        let load = rig.load().start().await;
        let mut relay = rig.relay_at_work().await;
        load.more(100).await;
        if exchange {
            node.ctl(&["eval", &delete_exchange(&topic)]).await;
        } else {
            broker.unsubscribe(&queue, &topic).await.unwrap();
        }
        let evidence = relay.line_with("cannot be delivered: parked", PATIENCE).await;
        load.more(100).await;
        let ledger = rig.settle(load, relay, WINDOW, vec![Fault::new(what, evidence)]).await;
        ledger.assert_promises();
        assert!(ledger.parked > 0, "{ledger}");
    }
}

fn delete_exchange(name: &str) -> String {
    format!(
        "rabbit_exchange:delete(rabbit_misc:r(<<\"/\">>, exchange, <<\"{name}\">>), false, <<\"test\">>)."
    )
}

//! Users that RabbitMQ does not let in: F58 and F59.

use super::*;

const PASSWORD: &str = "S3CR3T-CANARY";

/// F58: the password is changed under way. The relay says so without saying it, waits, and goes on once it is right again.
#[tokio::test]
async fn f58_a_refused_login_is_waited_out_and_told_without_the_secret() {
    let node = Node::start("").await;
    node.ctl(&["add_user", "relay", PASSWORD]).await;
    node.ctl(&["set_permissions", "relay", "^$", r"^amq\.default$", "^$"]).await;
    let url = node.server.url.replace("guest:guest@", &format!("relay:{PASSWORD}@"));
    let rig = node.rig_with(Tape::rabbitmq(&node.server.url).await.through(&url)).await;
    let load = rig.load().start().await;
    let relay = rig.relay_at_work().await;
    load.more(50).await;
    let refused = async {
        node.ctl(&["change_password", "relay", "another"]).await;
        node.ctl(&["close_all_connections", "fault test"]).await;
    };
    let fault = seen(&relay, "F58: the password was changed", "refused the credentials", refused).await;
    load.more(50).await;
    node.ctl(&["change_password", "relay", PASSWORD]).await;
    caught_up(&rig).await;
    assert_eq!(said(&relay, PASSWORD), 0, "a password in the log");
    let ledger = rig.settle(load, relay, WINDOW, vec![fault]).await;
    ledger.assert_promises();
}

/// F59: the permission to write is taken away. What is refused is parked with the broker's words, and nothing is lost.
#[tokio::test]
async fn f59_without_permission_rows_are_parked_with_the_reason() {
    let node = Node::start("").await;
    node.ctl(&["add_user", "relay", PASSWORD]).await;
    node.ctl(&["set_permissions", "relay", "^$", ".*", "^$"]).await;
    let url = node.server.url.replace("guest:guest@", &format!("relay:{PASSWORD}@"));
    let rig = node.rig_with(Tape::rabbitmq(&node.server.url).await.through(&url)).await;
    let load = rig.load().start().await;
    let mut relay = rig.relay_at_work().await;
    load.more(50).await;
    node.ctl(&["set_permissions", "relay", "^$", "^nothing$", "^$"]).await;
    // The node remembers permissions for a channel; a new one asks again.
    node.ctl(&["close_all_connections", "fault test"]).await;
    relay.line_with("ACCESS_REFUSED", PATIENCE).await;
    let evidence = relay.line_with("cannot be delivered: parked", PATIENCE).await;
    assert!(evidence.contains("ACCESS_REFUSED"), "{evidence}");
    let fault = Fault::new("F59: the permission was taken away", evidence);
    // One event closes the connection, others the channels.
    let ledger = rig.settle(load, relay, 4 * WINDOW, vec![fault]).await;
    ledger.assert_promises();
    assert!(ledger.parked > 0, "{ledger}");
}

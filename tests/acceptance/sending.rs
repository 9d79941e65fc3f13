//! Sending, routing and subscribing through the public API: over the SQL queue on SQLite, and over RabbitMQ.

#![allow(clippy::unwrap_used, missing_docs)] // a test

/// Runs each of these on both brokers.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let world = crate::world::World::sqlite().await;
                super::$name(&world).await;
                world.end().await;
            })*
        }
        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let world = crate::world::World::rabbitmq().await;
                super::$name(&world).await;
                world.end().await;
            })*
        }
    };
}

#[path = "sending/commands.rs"]
mod commands;
#[path = "sending/commit.rs"]
mod commit;
#[path = "sending/events.rs"]
mod events;
#[path = "sending/subscribing.rs"]
mod subscribing;
#[path = "sending/world.rs"]
mod world;

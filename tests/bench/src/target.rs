//! Where the rows go: the broker, the queue and the window that both sides of a bench use.

use std::sync::Arc;

use anyhow::ensure;
use barid::transport::{Inbox, Transport, kafka::Kafka, rabbitmq::RabbitMq};
use barid_relay::{
    lane::{Order, Window},
    sink::Sink,
};
use barid_tests::{names, servers};
use clap::{Args, ValueEnum};

use crate::{bare, report::Report};

/// Channels of the relay's RabbitMQ sink, and of the loop by hand.
pub(crate) const CHANNELS: u16 = 4;
const WINDOW_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Where the rows go.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// The broker.
    #[arg(long, value_enum, default_value_t = Kind::Rabbitmq)]
    pub(crate) sink: Kind,
    /// The kind of queue, on RabbitMQ.
    #[arg(long, value_enum, default_value_t = Queue::Quorum)]
    queue: Queue,
    /// Rows in flight. Default: 4000 for a quorum queue, 256 for a classic one, 10000 for Kafka.
    #[arg(long)]
    window: Option<usize>,
    /// RabbitMQ: the relay finds out by itself how much of the window it needs, as it does unless it is configured.
    #[arg(long)]
    find_window: bool,
}

/// A broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Rabbitmq,
    Kafka,
}

/// How RabbitMQ keeps a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Queue {
    Classic,
    Quorum,
}

impl Target {
    /// Rows in flight.
    pub(crate) fn window(&self) -> usize {
        self.window.unwrap_or(match (self.sink, self.queue) {
            (Kind::Rabbitmq, Queue::Classic) => 256,
            (Kind::Rabbitmq, Queue::Quorum) => 4_000,
            (Kind::Kafka, _) => 10_000,
        })
    }

    /// The order that the relay keeps on this broker unless it is told otherwise.
    pub(crate) fn default_order(&self) -> Order {
        match self.sink {
            Kind::Rabbitmq => Order::Strict,
            Kind::Kafka => Order::Pipelined,
        }
    }

    /// The framework's client.
    pub(crate) fn transport(&self) -> anyhow::Result<Arc<dyn Transport>> {
        Ok(match self.sink {
            Kind::Rabbitmq => {
                let mut settings = barid::transport::rabbitmq::Settings::new(servers::amqp());
                settings.window_rows_max = self.window();
                if !self.find_window {
                    settings.window_rows_min = self.window();
                }
                settings.window_bytes_max = WINDOW_BYTES_MAX;
                settings.channels = CHANNELS;
                settings.quorum = self.queue == Queue::Quorum;
                Arc::new(RabbitMq::new(settings)?)
            }
            Kind::Kafka => {
                let mut settings = barid::transport::kafka::Settings::new(servers::kafka());
                settings.window_rows_max = self.window();
                settings.window_bytes_max = WINDOW_BYTES_MAX;
                Arc::new(Kafka::new(settings)?)
            }
        })
    }

    /// The relay's sink on that client.
    pub(crate) fn sink(&self, transport: Arc<dyn Transport>) -> Sink {
        let window = Window { rows_max: self.window(), bytes_max: WINDOW_BYTES_MAX };
        Sink::new("sink", transport).window(window)
    }

    /// A new queue, or topic of that name.
    pub(crate) async fn declare(&self, transport: &Arc<dyn Transport>) -> anyhow::Result<String> {
        let queue = names::unique("bench");
        transport.declare(&Inbox::new(queue.clone())).await?;
        Ok(queue)
    }

    /// Checks that the broker has every row, and deletes the queue: a full one slows the broker down.
    pub(crate) async fn remove(&self, queue: &str, rows: usize) -> anyhow::Result<()> {
        let held = self.delete(queue).await?;
        let all = held.is_none_or(|held| held == rows);
        ensure!(all, "the queue holds {} messages for {rows} rows", held.unwrap_or_default());
        Ok(())
    }

    /// Deletes the queue, and says how many messages were in it, on RabbitMQ.
    pub(crate) async fn delete(&self, queue: &str) -> anyhow::Result<Option<usize>> {
        if self.sink == Kind::Kafka {
            names::delete_kafka_topic(queue).await;
            return Ok(None);
        }
        Ok(Some(bare::rabbitmq::delete(queue).await? as usize))
    }

    /// Says in the report what was published to.
    pub(crate) fn conditions(&self, report: &mut Report) {
        report.condition("sink", format!("{:?}", self.sink).to_lowercase());
        if self.sink == Kind::Rabbitmq {
            report.condition("queue", format!("{:?}", self.queue).to_lowercase());
            report.condition("channels", CHANNELS);
            report.condition("find_window", self.find_window);
        }
        report.condition("window", self.window());
    }
}

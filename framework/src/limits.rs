//! Every bound and its default. Nothing in Barid waits, queues or retries without one of these.

use std::time::Duration;

/// Longest name of a queue, topic or message, in bytes.
pub const NAME_BYTES_MAX: usize = 200;

/// Largest body that a bus or the relay accepts, in bytes. RabbitMQ refuses more than 16 MiB by default since 4.0.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Outbox rows whose statement text would be longer than this go back to bound parameters. In bytes of SQL text; a body
/// doubles in size when it is written as hex.
pub const OUTBOX_TEXT_BYTES_MAX: usize = 64 * 1024;

/// How many messages one handler may send.
pub const STAGED_MESSAGES_MAX: usize = 10_000;

/// How long the opening statement waits for a concurrent duplicate before it answers *in progress*.
pub const IDEMPOTENCY_WAIT: Duration = Duration::from_secs(2);

/// How long a unit of work waits for a connection guard that a handler still holds before the message fails.
pub const GUARD_WAIT: Duration = Duration::from_secs(1);

/// How long any single broker or database call may take before its outcome counts as unknown.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Messages that one bus handles at the same time.
pub const PARALLELISM: usize = 16;

/// Deliveries that a transport holds ready per consumer.
pub const PREFETCH: u16 = 64;

/// Attempts at handling one message before it becomes a dead letter.
pub const ATTEMPTS_MAX: u32 = 5;

/// How long handlers that are running when the bus stops may take to finish.
pub const STOP_GRACE: Duration = Duration::from_secs(30);

/// How long the background tasks of a bus may take to end when it stops.
pub const BACKGROUND_STOP_WAIT: Duration = Duration::from_secs(5);

/// Rows that a publisher has in flight unless it is told otherwise.
///
/// Quorum queues need some thousands to amortise their fsyncs; classic queues gain nothing beyond 256.
pub const WINDOW_ROWS_MAX: usize = 256;

/// Bytes of bodies that a publisher has in flight.
pub const WINDOW_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Messages that are handled in one unit of work, where a bus has batches.
pub const BATCH_MESSAGES: usize = 50;

/// The most messages in one unit of work. Beyond some hundreds nothing is gained, and locks are held longer.
pub const BATCH_MESSAGES_MAX: usize = 1_000;

/// The longest that a batch which is not full may wait for more, in milliseconds.
pub const BATCH_WAIT_MS_MAX: u64 = 1_000;

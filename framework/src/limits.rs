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

/// Attempts at handling one message before it becomes a dead letter, the first included.
pub const ATTEMPTS_MAX: u32 = 10;

/// Attempts at handling one message that follow one another without a pause, the first included.
pub const IMMEDIATE_ATTEMPTS_MAX: u32 = 2;

/// The first pause between two attempts; doubles with each further one.
pub const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause between two attempts.
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Bytes of the error text that are kept of one failed attempt.
pub const ATTEMPT_ERROR_BYTES_MAX: usize = 2_000;

/// Error texts that are kept in memory of one message's attempts. A database keeps 32,000 characters of them.
pub const ATTEMPT_ERRORS_MAX: usize = 20;

/// Messages whose attempts are remembered at the same time by a bus without a database.
pub const ATTEMPTS_REMEMBERED_MAX: usize = 100_000;

/// Bytes of the cause that a dead letter carries: headers must fit the frame of every broker.
pub const DEAD_CAUSE_BYTES_MAX: usize = 8_000;

/// Largest state of a saga, in bytes of JSON.
pub const SAGA_DATA_BYTES_MAX: usize = 1024 * 1024;

/// Timeouts that one saga waits for at the same time.
pub const SAGA_TIMEOUTS_MAX: usize = 100;

/// How often a message is handled again at once because somebody else was first with its saga, before that counts as an attempt.
pub const SAGA_CONFLICT_RETRIES_MAX: u32 = 5;

/// The longest pause before the first of these; doubles. The shortest is none.
pub const SAGA_CONFLICT_PAUSE: Duration = Duration::from_millis(5);

/// The longest pause before any of these.
pub const SAGA_CONFLICT_PAUSE_MAX: Duration = Duration::from_millis(100);

/// How often a saga with a conflict resolution is merged for one message, before the message fails.
pub const SAGA_MERGES_MAX: u32 = 5;

/// How long the tombstone of a completed saga is kept: what a late or repeated start can be late.
pub const SAGA_RETENTION: Duration = Duration::from_secs(7 * 86_400);

/// How often old tombstones are looked for.
pub const SAGA_RETENTION_EVERY: Duration = Duration::from_secs(60);

/// Tombstones that are removed at once.
pub const SAGA_RETENTION_BATCH_ROWS: u32 = 500;

/// Sagas that a bus without a database keeps in memory, the completed ones included.
pub const MEMORY_SAGAS_MAX: usize = 100_000;

/// How long handlers that are running when the bus stops may take to finish.
pub const STOP_GRACE: Duration = Duration::from_secs(30);

/// How long an idle consumer waits before it looks again, where its transport has to look: first, and at most.
pub const RECEIVE_PAUSE: Duration = Duration::from_millis(1);

/// The longest pause between two looks of an idle consumer.
pub const RECEIVE_PAUSE_MAX: Duration = Duration::from_millis(50);

/// The pause after receiving failed for the first time. It doubles.
pub const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between failing receives.
pub const ERROR_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How often a worker that waits gives a sign of life.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// The longest pause of a circuit breaker. RabbitMQ closes channels whose deliveries stay unsettled for 30 minutes, and what
/// was prefetched stays unsettled during a pause.
pub const CIRCUIT_PAUSE_MAX: Duration = Duration::from_secs(600);

/// How long handlers that were dropped after the grace period may take to be gone.
pub const DROP_WAIT: Duration = Duration::from_secs(5);

/// Where the text of an error in a health snapshot is cut, in bytes.
pub const ERROR_TEXT_BYTES_MAX: usize = 2_000;

/// The pause before a crashed bus of a host is started again. It doubles.
pub const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between restarts of a bus.
pub const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How long one start or stop hook of a host may take.
pub const HOOK_WAIT: Duration = Duration::from_secs(30);

/// How long the background tasks of a bus may take to end when it stops.
pub const BACKGROUND_STOP_WAIT: Duration = Duration::from_secs(5);

/// Furthest that a message can be deferred: a hundred years.
pub const DEFER_MAX: Duration = Duration::from_secs(36_525 * 86_400);

/// Latest time that a message can be scheduled at, in seconds since 1970: the end of the year 9999, which is MariaDB's.
pub const SCHEDULE_AT_MAX_S: i64 = 253_402_300_799;

/// Longest pause between two looks at the schedule: what a message of another process is late at most.
pub const SCHEDULE_POLL: Duration = Duration::from_secs(1);

/// Shortest pause between two looks at the schedule, unless a batch was full: what is due meanwhile leaves together.
pub const SCHEDULE_POLL_MIN: Duration = Duration::from_millis(10);

/// How long an instance that finds another one moving what is due waits before it looks again.
pub const SCHEDULE_BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Scheduled messages that one transaction moves into the outbox.
pub const SCHEDULE_BATCH_ROWS: u32 = 500;

/// Scheduled messages that a bus without a database keeps in memory.
pub const MEMORY_SCHEDULE_MAX: usize = 100_000;

/// How often a bus without a database tries to send a message that is due, once a second.
pub const MEMORY_SCHEDULE_TRIES: u32 = 60;

/// Rows that a publisher has in flight before it found out whether more of them are any faster.
///
/// Classic queues of RabbitMQ gain nothing beyond it.
pub const WINDOW_ROWS: usize = 256;

/// Rows that a publisher has in flight at most, unless it is told otherwise.
///
/// Quorum queues need some thousands to amortise their fsyncs (192 unconfirmed gave 10,000 messages/s, 3,000 gave 70,000).
pub const WINDOW_ROWS_MAX: usize = 4_000;

/// How long a published row may wait for its confirm before its outcome counts as unknown: shorter than a heartbeat of
/// RabbitMQ (20 s), and than the lease of a relay.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of bodies that a publisher has in flight.
pub const WINDOW_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Largest body of an answer that is kept, with the idempotency record or as a result, in bytes. It is written in hex, with the
/// closing text of the unit of work.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;

/// Requests of one bus that wait for their answers at the same time.
pub const REQUESTS_WAITING_MAX: usize = 10_000;

/// How long idempotency records, results and high-water marks are kept unless somebody says otherwise. Must be longer than any
/// message can stay in a broker, a dead-letter queue or a log before it comes again.
pub const RECORDS_KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Rows that one statement of the retention looks at.
pub const PURGE_ROWS_MAX: u32 = 1_000;

/// Statements of the retention in a row, before it pauses.
pub const PURGE_STATEMENTS_MAX: u32 = 50;

/// The pause of the retention when there may be more to remove, and when there is not.
pub const PURGE_PAUSE: Duration = Duration::from_secs(1);
/// See [`PURGE_PAUSE`].
pub const PURGE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How long changing the partitions of a table may make units of work wait. It is tried again later.
pub const PARTITION_LOCK_WAIT: Duration = Duration::from_millis(100);

/// Days for which partitions are made ahead.
pub const PARTITION_DAYS_AHEAD: u32 = 3;

/// How long a reply queue stays after the process that owned it died without removing it.
pub const REPLY_QUEUE_KEPT: Duration = Duration::from_secs(600);

/// The pauses between looks of somebody who waits for a result: first, and at most.
pub const RESULT_POLL: Duration = Duration::from_millis(20);
/// See [`RESULT_POLL`].
pub const RESULT_POLL_MAX: Duration = Duration::from_secs(1);
/// Messages that are handled in one unit of work, where a bus has batches.
pub const BATCH_MESSAGES: usize = 50;

/// The most messages in one unit of work. Beyond some hundreds nothing is gained, and locks are held longer.
pub const BATCH_MESSAGES_MAX: usize = 1_000;

/// The longest that a batch which is not full may wait for more, in milliseconds.
pub const BATCH_WAIT_MS_MAX: u64 = 1_000;
/// How long a publisher believes what a subscription store told it: what a subscription of another process takes to be seen.
pub const SUBSCRIPTIONS_AGE_MAX: Duration = Duration::from_secs(2);

/// Topics whose subscribers a publisher remembers. For more it asks the store each time.
pub const SUBSCRIPTION_TOPICS_MAX: usize = 1_000;

/// Queues that may subscribe to one topic of a subscription store: one event becomes so many rows.
pub const SUBSCRIBERS_MAX: usize = 1_000;

/// Largest event, and largest snapshot, in bytes. What is larger belongs elsewhere, with its address in the event.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// Events that one append takes.
pub const EVENTS_APPEND_MAX: usize = 1_000;

/// Bytes that the events of one append have together. Written in hex they must fit the packets of every database (16 MiB).
pub const EVENTS_APPEND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Events on a page, unless it is told otherwise, and at most.
pub const EVENTS_PAGE: u32 = 100;
/// See [`EVENTS_PAGE`].
pub const EVENTS_PAGE_MAX: u32 = 1_000;

/// Events that are given their positions at once, behind one lock.
pub const EVENTS_ORDER_ROWS: u32 = 500;

/// How long an instance that reads a subscription of the event store and dies keeps the others from reading it.
pub const EVENT_FEED_LEASE: Duration = Duration::from_secs(30);

/// How long what was handled stays unwritten while a subscription is read: what comes again after a crash.
pub const EVENT_CHECKPOINT_PAUSE: Duration = Duration::from_millis(500);

/// How far a subscription reads ahead of the first event that is not settled.
pub const EVENT_FEED_AHEAD_MAX: u64 = 10_000;

/// Tries of a distributed transaction as a whole, the first included.
pub const DISTRIBUTED_ATTEMPTS_MAX: std::num::NonZeroU32 = std::num::NonZeroU32::MIN.saturating_add(2);

/// The pause after the first of these; doubles.
pub const DISTRIBUTED_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The longest of these pauses.
pub const DISTRIBUTED_RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Transactions that a monitor lists at the same time.
pub const MONITORED_TRANSACTIONS_MAX: usize = 10_000;

/// What a monitor keeps of what happened to one transaction.
pub const MONITORED_EVENTS_MAX: usize = 100;
/// Branches of one distributed transaction.
pub const DISTRIBUTED_BRANCHES_MAX: usize = 64;

/// How long a branch may take to prepare, and to answer the second round of the three-phase protocol.
pub const DISTRIBUTED_PREPARE_WAIT: Duration = Duration::from_secs(30);

/// How long a branch that is told to commit is waited for before it is left to recovery.
pub const DISTRIBUTED_COMMIT_WAIT: Duration = Duration::from_secs(60);

/// How long a branch that is told to roll back is waited for before it is left to recovery.
pub const DISTRIBUTED_ABORT_WAIT: Duration = Duration::from_secs(30);

/// How long a distributed transaction may be undecided before recovery aborts it.
pub const DISTRIBUTED_DEADLINE: Duration = Duration::from_secs(60);

/// The pause between two looks of recovery.
pub const DISTRIBUTED_RECOVER_EVERY: Duration = Duration::from_secs(5);

/// How long other processes leave a transaction alone that recovery has taken.
pub const DISTRIBUTED_LEASE: Duration = Duration::from_secs(60);

/// Transactions that one round of recovery takes.
pub const DISTRIBUTED_RECOVER_COUNT: u32 = 100;

/// The pause before recovery tries a transaction again: first, and at most.
pub const DISTRIBUTED_AGAIN: Duration = Duration::from_secs(1);
/// See [`DISTRIBUTED_AGAIN`].
pub const DISTRIBUTED_AGAIN_MAX: Duration = Duration::from_secs(60);

/// After so many tries of recovery somebody is told.
pub const DISTRIBUTED_ALERT_AFTER: u32 = 5;

/// Transactions that were dropped undecided and are being rolled back in the background. What is beyond is left to recovery.
pub const DISTRIBUTED_DROPPED_MAX: usize = 1_000;

/// Transactions, events and audit entries of the decision log that one call returns.
pub const DISTRIBUTED_LIST_MAX: u32 = 1_000;

/// Undecided for longer than this, a distributed transaction is stale: it is rolled back and marked as cleaned up.
pub const DISTRIBUTED_STALE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Not over everywhere after this, a distributed transaction is incomplete: somebody is told, and it is tried at once.
pub const DISTRIBUTED_INCOMPLETE_AFTER: Duration = Duration::from_secs(60 * 60);

/// The pause between two clean-ups of stale and incomplete transactions, and of what is over for long.
pub const DISTRIBUTED_CLEAN_EVERY: Duration = Duration::from_secs(60 * 60);

/// How long a name stays taken after its transaction has ended.
pub const DISTRIBUTED_NAME_KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// How long it is kept who did what with transactions.
pub const DISTRIBUTED_AUDIT_KEPT_FOR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The text that a human gives as a reason, in bytes.
pub const REASON_BYTES_MAX: usize = 1_000;

/// How long one external stage of a distributed operation, or one try of its compensation, may take.
pub const DISTRIBUTED_STAGE_WAIT: Duration = Duration::from_secs(30);

/// Branches that were prepared for longer than this before the decision are logged.
pub const DISTRIBUTED_SLOW_AFTER: Duration = Duration::from_secs(5);

/// The pause between two looks at how many transactions are open, in doubt, and prepared for how long.
pub const DISTRIBUTED_LOOK_EVERY: Duration = Duration::from_secs(30);

/// Transactions that are over and are removed at the same time.
pub const DISTRIBUTED_PURGE_AT_ONCE: usize = 4;

/// Steps of one orchestrated saga.
pub const ORCHESTRATION_STEPS_MAX: usize = 64;

/// What an orchestrated saga is started with, and what one of its steps returns, as JSON, in bytes. Both are read each time that a process
/// goes on with it: keep ids in it, not documents.
pub const ORCHESTRATION_DATA_BYTES_MAX: usize = 256 * 1024;

/// How long one attempt of a step of an orchestrated saga may take.
pub const ORCHESTRATION_STEP_WAIT: Duration = Duration::from_secs(30);

/// How much longer than its step a saga is kept from other processes: two calls to the database that keeps it.
pub const ORCHESTRATION_LEASE_MARGIN: Duration = Duration::from_secs(15);

/// The pause before a step is tried again that somebody else is at: a process that was thought to be dead.
pub const ORCHESTRATION_BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Orchestrated sagas that one process carries out at the same time.
pub const ORCHESTRATION_AT_ONCE: usize = 16;

/// The pause between two looks for sagas that are due: what one that another process has started, or has left, is late at most.
pub const ORCHESTRATION_POLL: Duration = Duration::from_secs(1);

/// The pauses of somebody who waits for the end of a saga that another process carries out: first, and at most.
pub const ORCHESTRATION_WAIT_PAUSE: Duration = Duration::from_millis(20);
/// See [`ORCHESTRATION_WAIT_PAUSE`].
pub const ORCHESTRATION_WAIT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The pause between two looks at sagas that are over for long, and at those that no definition fits.
pub const ORCHESTRATION_CLEAN_EVERY: Duration = Duration::from_secs(60);

/// Sagas that are forgotten at one look.
pub const ORCHESTRATION_PURGE_COUNT: u32 = 100;

/// Due for longer than this while no definition fits them, sagas are logged: nobody carries them out.
pub const ORCHESTRATION_STRANDED_AFTER: Duration = Duration::from_secs(60);

/// What is kept of what a step said, in bytes.
pub const ORCHESTRATION_ERROR_BYTES_MAX: usize = 4_000;

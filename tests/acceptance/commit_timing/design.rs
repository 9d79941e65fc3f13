//! What design.md 4 says about each row of the table, written down without a look at the code.

use std::fmt;

/// The databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    MariaDb,
    Sqlite,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    HandlerError,
    HandlerPanic,
    /// The database refuses to commit.
    CommitRefused,
    /// SQLite: another connection still reads, so the COMMIT answers BUSY.
    CommitBusy,
    /// The answer to COMMIT does not come (SQLite: it is an I/O error), and the database did or did not commit.
    AnswerLost {
        committed: bool,
    },
    /// The transport does not take what the handler sends.
    Send,
    /// The transport does not take the acknowledgement.
    Ack,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) commit_with_transaction: bool,
    pub(crate) outbox: bool,
    pub(crate) idempotency: bool,
    pub(crate) fault: Fault,
    /// Whether the delivery may be a repeat: then its attempt is counted before it runs.
    pub(crate) repeat: bool,
}

impl Row {
    /// Every combination that exists; those that must not build included.
    pub(crate) fn all() -> Vec<Self> {
        let lost = |committed| Fault::AnswerLost { committed };
        let faults = [
            Fault::Nothing,
            Fault::HandlerError,
            Fault::HandlerPanic,
            Fault::CommitRefused,
            Fault::CommitBusy,
            lost(true),
            lost(false),
            Fault::Send,
            Fault::Ack,
        ];
        let switches = [false, true];
        let mut rows = Vec::new();
        for kind in [Kind::Postgres, Kind::MariaDb, Kind::Sqlite] {
            for commit_with_transaction in switches {
                for (outbox, idempotency) in switches.iter().flat_map(|a| switches.map(|b| (*a, b))) {
                    for fault in faults {
                        for repeat in switches {
                            rows.push(Self {
                                kind,
                                commit_with_transaction,
                                outbox,
                                idempotency,
                                fault,
                                repeat,
                            });
                        }
                    }
                }
            }
        }
        rows.retain(|row| row.fault != Fault::CommitBusy || row.kind == Kind::Sqlite);
        rows
    }

    /// The table of commit timings: outbox and idempotency need `true`.
    pub(crate) fn builds(&self) -> bool {
        self.commit_with_transaction || !(self.outbox || self.idempotency)
    }
}

/// How the message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    HandlerFailed,
    CommitFailed,
    /// Nobody knows; the flag is what only the test knows.
    Unknown {
        committed: bool,
    },
    SendFailed,
}

/// Everything that can be seen after one delivery.
#[derive(PartialEq, Eq)]
pub(crate) struct Seen {
    /// What happened, in order. Lower case: the handler and the actions that it registered. Upper case: what the outside saw
    /// (the rows are durable, the message was sent, the transport was told).
    pub(crate) stages: Vec<&'static str>,
    pub(crate) business_rows: i64,
    pub(crate) outbox_rows: i64,
    pub(crate) records: i64,
    pub(crate) attempts: i64,
    /// Whether an error action heard of something.
    pub(crate) reported: bool,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stages, business_rows, outbox_rows, records, attempts, reported } = self;
        write!(
            f,
            "{}\n    {business_rows} business, {outbox_rows} outbox, {records} records, {attempts} attempts, \
             reported: {reported}",
            stages.join(" ")
        )
    }
}

/// The expectation.
pub(crate) fn expected(row: &Row) -> Seen {
    let end = end(row);
    let durable = matches!(end, End::Done | End::SendFailed | End::Unknown { committed: true });
    Seen {
        stages: stages(end, row),
        business_rows: durable.into(),
        outbox_rows: (durable && row.outbox).into(),
        records: (durable && row.idempotency).into(),
        attempts: match end {
            // Handled messages are forgotten; an unknown outcome is not counted.
            End::Done | End::Unknown { .. } => 0,
            // Handler, commit and send failures count.
            End::HandlerFailed | End::CommitFailed | End::SendFailed => 1,
        },
        reported: match end {
            End::Done => row.fault == Fault::Ack,
            // What the handler or the commit answered is the answer for the message; nothing else went wrong.
            End::HandlerFailed | End::CommitFailed => false,
            End::Unknown { .. } | End::SendFailed => true,
        },
    }
}

fn end(row: &Row) -> End {
    match row.fault {
        Fault::Nothing | Fault::Ack => End::Done,
        Fault::HandlerError | Fault::HandlerPanic => End::HandlerFailed,
        Fault::CommitRefused | Fault::CommitBusy => End::CommitFailed,
        // With idempotency the bus finds out, without it cannot be known.
        Fault::AnswerLost { committed } if !row.idempotency => End::Unknown { committed },
        Fault::AnswerLost { committed: true } => End::Done,
        Fault::AnswerLost { committed: false } => End::CommitFailed,
        // With an outbox the bus itself sends nothing.
        Fault::Send if row.outbox => End::Done,
        Fault::Send => End::SendFailed,
    }
}

/// `false`: the unit commits right after the handlers, before the context's own stages. `true`: as its commit stage.
fn stages(end: End, row: &Row) -> Vec<&'static str> {
    let stages = match (end, row.commit_with_transaction) {
        (End::Done, false) => "handler DURABLE before_commit commit SENT after_commit ACK ack close",
        (End::Done, true) => "handler before_commit commit DURABLE SENT after_commit ACK ack close",
        (End::HandlerFailed, _) | (End::CommitFailed, false) => "handler rollback NACK nack close",
        (End::CommitFailed, true) => "handler before_commit commit rollback NACK nack close",
        (End::Unknown { .. }, false) => "handler DURABLE NACK nack close",
        (End::Unknown { .. }, true) => "handler before_commit commit DURABLE NACK nack close",
        (End::SendFailed, false) => "handler DURABLE before_commit commit NACK nack close",
        (End::SendFailed, true) => "handler before_commit commit DURABLE NACK nack close",
    };
    let seen = |stage: &&str| match *stage {
        "DURABLE" => end != End::Unknown { committed: false },
        "SENT" => !row.outbox,
        _ => true,
    };
    stages.split(' ').filter(seen).collect()
}

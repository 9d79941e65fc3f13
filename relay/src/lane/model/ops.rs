//! What may happen to lanes, in any order.

use proptest::prelude::*;

use crate::lane::tests::SINKS;

#[derive(Clone, Debug)]
pub(super) enum Op {
    Push {
        key: Option<u8>,
        sink: usize,
    },
    /// A read that shows a row of before once more.
    PushAgain {
        pick: usize,
    },
    Start {
        sink: usize,
    },
    Settle {
        pick: usize,
        answer: u8,
    },
    /// A second answer to a token that was answered.
    SettleAgain {
        pick: usize,
    },
    Advance {
        ms: u64,
    },
    Delete,
    Read,
    /// A key of which something was left out begins to be read again, or that read ends.
    ReadAgain,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (prop::option::weighted(0.9, 0..4u8), 0..SINKS).prop_map(|(key, sink)| Op::Push { key, sink }),
        1 => any::<usize>().prop_map(|pick| Op::PushAgain { pick }),
        8 => (0..SINKS).prop_map(|sink| Op::Start { sink }),
        8 => (any::<usize>(), any::<u8>()).prop_map(|(pick, answer)| Op::Settle { pick, answer }),
        1 => any::<usize>().prop_map(|pick| Op::SettleAgain { pick }),
        4 => (0..40u64).prop_map(|ms| Op::Advance { ms }),
        2 => Just(Op::Delete),
        1 => Just(Op::Read),
        3 => Just(Op::ReadAgain),
    ]
}

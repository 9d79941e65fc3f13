//! What comes back of the effects of a machine.

use crate::distributed::{core::Input, participant::RmError};

/// What came back of an effect.
pub(super) struct Said {
    pub(super) input: Option<Input>,
    pub(super) place: Option<usize>,
    pub(super) error: Option<Trouble>,
}

/// What somebody said who did not do it.
pub(super) struct Trouble {
    pub(super) text: String,
    /// Whether a human has to change something before it can work.
    pub(super) needs_help: bool,
}

impl From<String> for Trouble {
    fn from(text: String) -> Self {
        Self { text, needs_help: false }
    }
}

impl From<RmError> for Trouble {
    fn from(error: RmError) -> Self {
        let needs_help = matches!(error, RmError::Config(_) | RmError::Permanent(_));
        Self { text: error.to_string(), needs_help }
    }
}

impl Said {
    pub(super) fn nothing(error: Option<String>) -> Self {
        Self { input: None, place: None, error: error.map(Trouble::from) }
    }

    pub(super) fn of(input: Input) -> Self {
        Self { input: Some(input), place: None, error: None }
    }
}

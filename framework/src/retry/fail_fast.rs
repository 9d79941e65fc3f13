//! Errors that no retry can mend, told by their type or by a predicate.

use std::{fmt, sync::Arc};

use crate::error::{Disposition, Error};

/// Which errors make a message a dead letter at once, without further attempts.
#[derive(Clone, Default)]
pub(crate) struct FailFast(Vec<Arc<dyn Fn(&Error) -> bool + Send + Sync>>);

impl FailFast {
    pub(crate) fn when(&mut self, hopeless: impl Fn(&Error) -> bool + Send + Sync + 'static) {
        self.0.push(Arc::new(hopeless));
    }

    /// The error as it counts: hopeless ones are not tried again. What an error says about itself otherwise stays.
    pub(crate) fn judge(&self, error: Error) -> Error {
        let hopeless = error.disposition() == Disposition::Retry && self.0.iter().any(|is| is(&error));
        if hopeless { error.with(Disposition::DeadLetter) } else { error }
    }
}

impl fmt::Debug for FailFast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FailFast").field(&self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the card was declined")]
    struct Declined;

    #[derive(Debug, thiserror::Error)]
    #[error("paying failed")]
    struct Payment(#[source] Box<dyn std::error::Error + Send + Sync>);

    #[test]
    fn an_error_is_found_wherever_it_is_in_the_chain() {
        let mut fail_fast = FailFast::default();
        fail_fast.when(|error| error.find::<Declined>().is_some());
        fail_fast.when(|error| error.to_string().contains("no such customer"));
        let check = |error: Error, expected| {
            let said = error.to_string();
            assert_eq!(fail_fast.judge(error).disposition(), expected, "{said}");
        };
        check(Declined.into(), Disposition::DeadLetter);
        check(Payment(Box::new(Declined)).into(), Disposition::DeadLetter);
        check(Payment(Box::new(Payment(Box::new(Declined)))).into(), Disposition::DeadLetter);
        check(Error::from(Payment(Box::new(Declined))).context("order 7"), Disposition::DeadLetter);
        check(Error::new("no such customer"), Disposition::DeadLetter);
        check(Payment("timeout".into()).into(), Disposition::Retry);
        // Only what would be tried again is looked at.
        check(Error::from(Declined).with(Disposition::Later), Disposition::Later);
    }
}

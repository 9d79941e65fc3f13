//! Pauses that grow from one to the next until something succeeds: which steps there are, and where one is.
//!
//! Used wherever something is tried again: idle polls, failing receives, background tasks, crashed buses. Pure; it owns no
//! clock, the caller waits.

use std::time::Duration;

/// The pauses between tries, from the first to the last; the last one repeats. Never empty, none of them zero.
///
/// ```
/// use std::time::Duration;
/// use barid::Backoff;
///
/// let backoff = Backoff::new([500, 1_000, 5_000].map(Duration::from_millis))?;
/// assert_eq!(backoff.steps().len(), 3);
/// # Ok::<(), barid::backoff::BackoffError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff(Vec<Duration>);

/// Steps that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackoffError {
    /// There is no step at all. Give one at least.
    #[error("a backoff needs at least one step")]
    Empty,
    /// A step of no length would be a busy loop. Leave it out or make it longer.
    #[error("a step of a backoff must be longer than 0")]
    Zero,
}

impl Backoff {
    /// These pauses, one after the other.
    ///
    /// # Errors
    /// [`BackoffError`] when there is no step or one of them is 0.
    pub fn new(steps: impl IntoIterator<Item = Duration>) -> Result<Self, BackoffError> {
        let steps: Vec<_> = steps.into_iter().collect();
        match steps.as_slice() {
            [] => Err(BackoffError::Empty),
            steps if steps.contains(&Duration::ZERO) => Err(BackoffError::Zero),
            _ => Ok(Self(steps)),
        }
    }

    /// From `first`, each the double of the one before, up to `max`. A pause below a millisecond counts as one.
    #[must_use]
    pub fn doubling(first: Duration, max: Duration) -> Self {
        let first = first.max(Duration::from_millis(1));
        let doubled =
            std::iter::successors(Some(first), |step| (*step < max).then(|| step.saturating_mul(2)));
        Self(doubled.map(|step| step.min(max.max(first))).collect())
    }

    /// The pauses.
    #[must_use]
    pub fn steps(&self) -> &[Duration] {
        &self.0
    }

    pub(crate) fn start(&self) -> Progress {
        Progress { backoff: self.clone(), at: 0 }
    }
}

/// Where somebody is on a [`Backoff`].
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    backoff: Backoff,
    at: usize,
}

impl Progress {
    /// The pause before the next try. Each one is the next step.
    pub(crate) fn pause(&mut self) -> Duration {
        let steps = &self.backoff.0;
        let pause = steps[self.at.min(steps.len() - 1)];
        self.at = (self.at + 1).min(steps.len());
        pause
    }

    /// It worked: the next pause is the first one again.
    pub(crate) fn reset(&mut self) {
        self.at = 0;
    }

    /// What failed now had run this long before. Longer than the longest pause means that it had recovered.
    pub(crate) fn had_run(&mut self, time: Duration) {
        if self.backoff.0.last().is_none_or(|longest| time > *longest) {
            self.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(backoff: &Backoff, tries: &[Try], pauses_ms: &[u64]) {
        let mut progress = backoff.start();
        let mut paused = Vec::new();
        for tried in tries {
            match tried {
                Try::Fails => paused.push(u64::try_from(progress.pause().as_millis()).unwrap()),
                Try::Works => progress.reset(),
                Try::Ran(ms) => progress.had_run(Duration::from_millis(*ms)),
            }
        }
        assert_eq!(paused, pauses_ms, "{backoff:?} after {tries:?}");
    }

    #[derive(Clone, Copy, Debug)]
    enum Try {
        Fails,
        Works,
        Ran(u64),
    }
    use Try::{Fails, Ran, Works};

    #[test]
    fn pauses_grow_to_the_last_step_and_begin_anew_after_a_success() {
        let backoff = Backoff::new([5, 10, 40].map(Duration::from_millis)).unwrap();
        check(&backoff, &[Fails; 5], &[5, 10, 40, 40, 40]);
        check(&backoff, &[Fails, Fails, Works, Fails, Fails], &[5, 10, 5, 10]);
        check(&backoff, &[Works, Works, Fails], &[5]);
        check(&backoff, &[Fails, Fails, Ran(40), Fails], &[5, 10, 40]);
        check(&backoff, &[Fails, Fails, Ran(41), Fails], &[5, 10, 5]);
        check(&Backoff::new([Duration::from_millis(7)]).unwrap(), &[Fails, Fails, Works, Fails], &[7, 7, 7]);
    }

    #[test]
    fn doubling_ends_at_the_longest() {
        let steps = |first, max| {
            let backoff = Backoff::doubling(Duration::from_millis(first), Duration::from_millis(max));
            backoff.steps().iter().map(Duration::as_millis).collect::<Vec<_>>()
        };
        assert_eq!(steps(100, 1_000), [100, 200, 400, 800, 1_000]);
        assert_eq!(steps(1, 4), [1, 2, 4]);
        assert_eq!(steps(50, 50), [50]);
        assert_eq!(steps(50, 10), [50]);
        assert_eq!(steps(0, 0), [1]);
    }

    #[test]
    fn steps_that_would_not_pause_are_refused() {
        assert_eq!(Backoff::new([]), Err(BackoffError::Empty));
        assert_eq!(Backoff::new([Duration::from_millis(1), Duration::ZERO]), Err(BackoffError::Zero));
    }
}

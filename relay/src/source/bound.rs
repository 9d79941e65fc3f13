//! From where a reader of the head may begin, so that the dead rows before it cost nothing.
//!
//! A position is taken before its row becomes visible, so a row may still appear below one that was read. The bound is exact: it
//! moves to a position L only when every transaction that may hold a position up to L has ended *and* a read after that has
//! handed out everything up to L. A bound that is merely late loses rows and inverts keys. No I/O: the caller asks the database.

use std::time::{Duration, Instant};

/// How old L must be before the open transactions are listed: a statement takes its position a moment before its transaction can
/// be seen to write.
pub(super) const AGE: Duration = Duration::from_secs(2);

/// The pause between two questions to the database about one L.
const ASK: Duration = Duration::from_millis(250);

/// How far a position is proven; `P` is what the database said about the writers at that time.
#[derive(Debug)]
enum Step<P> {
    /// Nothing was read beyond the bound.
    Still,
    /// Positions up to this were taken before that time.
    Ageing(i64, Instant),
    /// Waiting for the writers of that time to end; when to ask again.
    Waiting(i64, P, Instant),
    /// They have ended: the next read that reaches this far hands out all that there is.
    Proven(i64),
}

/// What to ask the database before the next read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ask<'a, P> {
    /// Nothing.
    Nothing,
    /// Who may hold a position now: tell [`Bound::mark`].
    Mark,
    /// Whether all of these have ended: if so tell [`Bound::proven`].
    Ended(&'a P),
}

/// The bound of one reader.
#[derive(Debug)]
pub(super) struct Bound<P> {
    above: i64,
    step: Step<P>,
}

impl<P> Bound<P> {
    /// Everything is to be read.
    pub(super) fn new() -> Self {
        Self { above: i64::MIN, step: Step::Still }
    }

    /// Read only rows above this.
    pub(super) fn above(&self) -> i64 {
        self.above
    }

    /// A read handed out rows up to `last`, and `all` that there are; or it was cut off there.
    pub(super) fn read(&mut self, last: Option<i64>, all: bool, now: Instant) {
        match self.step {
            Step::Proven(limit) if all || last.is_some_and(|last| last > limit) => {
                self.above = limit;
                self.step = Step::Still;
            }
            _ => {}
        }
        if let (Step::Still, Some(last)) = (&self.step, last)
            && last > self.above
        {
            self.step = Step::Ageing(last, now);
        }
    }

    /// What is due.
    pub(super) fn ask(&mut self, now: Instant) -> Ask<'_, P> {
        match &mut self.step {
            Step::Ageing(_, since) if now >= *since + AGE => Ask::Mark,
            Step::Waiting(_, writers, next) if now >= *next => {
                *next = now + ASK;
                Ask::Ended(writers)
            }
            _ => Ask::Nothing,
        }
    }

    /// These may hold positions up to L.
    pub(super) fn mark(&mut self, writers: P, now: Instant) {
        if let Step::Ageing(limit, _) = self.step {
            self.step = Step::Waiting(limit, writers, now);
        }
    }

    /// All of them have ended.
    pub(super) fn proven(&mut self) {
        if let Step::Waiting(limit, ..) = self.step {
            self.step = Step::Proven(limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_moves_after_the_writers_of_that_time_ended_and_a_read_after_that() {
        let (mut bound, t0) = (Bound::new(), Instant::now());
        assert_eq!(bound.ask(t0), Ask::Nothing);
        bound.read(Some(7), true, t0);
        assert_eq!(bound.ask(t0), Ask::Nothing, "7 was taken a moment ago");
        let t1 = t0 + AGE;
        assert_eq!(bound.ask(t1), Ask::Mark);
        bound.mark("writer", t1);
        assert_eq!(bound.ask(t1), Ask::Ended(&"writer"));
        assert_eq!(bound.ask(t1), Ask::Nothing, "asked a moment ago");
        bound.read(Some(9), true, t1);
        assert_eq!(bound.above(), i64::MIN, "the writer may still commit a row below 7");
        bound.proven();
        bound.read(Some(5), false, t1);
        assert_eq!(bound.above(), i64::MIN, "the read was cut off before 7");
        bound.read(Some(8), false, t1);
        assert_eq!(bound.above(), 7);
    }

    #[test]
    fn an_idle_reader_asks_nothing() {
        let (mut bound, t0) = (Bound::<()>::new(), Instant::now());
        bound.read(Some(7), true, t0);
        bound.mark((), t0);
        bound.proven();
        bound.read(None, true, t0);
        assert_eq!(bound.above(), 7);
        assert_eq!(bound.ask(t0 + 100 * AGE), Ask::Nothing);
        bound.read(Some(7), true, t0);
        assert_eq!(bound.ask(t0 + 100 * AGE), Ask::Nothing, "nothing beyond the bound was read");
    }
}

//! The error of handlers and steps: anything that is an error converts into it, and it says what to do with the message.

use std::fmt;

/// The result of a handler or a step.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What happens to a message whose handling ended with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disposition {
    /// Counts as an attempt and is tried again until the attempts are used up. What every converted error is.
    Retry,
    /// Trying again cannot help: a dead letter at once.
    DeadLetter,
    /// No attempt was made or its outcome is unknown: deliver again later without counting.
    Later,
}

/// Why a message could not be handled.
///
/// Like `anyhow::Error` it takes every error type through `?`, and so does not implement `std::error::Error` itself.
pub struct Error {
    disposition: Disposition,
    contexts: Vec<String>,
    cause: Box<dyn std::error::Error + Send + Sync>,
}

impl Error {
    /// An error with only a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { disposition: Disposition::Retry, contexts: Vec::new(), cause: text.into().into() }
    }

    /// An error that no retry can mend: the message becomes a dead letter at once.
    #[must_use]
    pub fn permanent(text: impl Into<String>) -> Self {
        Self::new(text).with(Disposition::DeadLetter)
    }

    /// Not now: the message is delivered again later and this does not count as an attempt.
    #[must_use]
    pub fn later(text: impl Into<String>) -> Self {
        Self::new(text).with(Disposition::Later)
    }

    /// The same error with another disposition.
    #[must_use]
    pub fn with(mut self, disposition: Disposition) -> Self {
        self.disposition = disposition;
        self
    }

    /// The same error, with what was being done when it happened in front.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.contexts.push(doing.to_string());
        self
    }

    /// What happens to the message.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        self.disposition
    }

    /// The error that this one was made from, to be looked at with `downcast_ref`.
    #[must_use]
    pub fn cause(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self.cause.as_ref()
    }

    /// The first error of type `E` among the cause and the sources behind it.
    #[must_use]
    pub fn find<E: std::error::Error + 'static>(&self) -> Option<&E> {
        let mut error: Option<&(dyn std::error::Error + 'static)> = Some(self.cause.as_ref());
        while let Some(at) = error {
            if let Some(found) = at.downcast_ref() {
                return Some(found);
            }
            error = at.source();
        }
        None
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(cause: E) -> Self {
        Self { disposition: Disposition::Retry, contexts: Vec::new(), cause: Box::new(cause) }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

/// For `main` functions and libraries whose errors are boxed.
impl From<Error> for Box<dyn std::error::Error + Send + Sync> {
    fn from(error: Error) -> Self {
        error.to_string().into()
    }
}

impl From<Error> for Box<dyn std::error::Error> {
    fn from(error: Error) -> Self {
        error.to_string().into()
    }
}

/// The whole chain, outermost first, separated by `: `.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in self.contexts.iter().rev() {
            write!(f, "{context}: ")?;
        }
        write!(f, "{}", self.cause)?;
        let mut said = self.cause.to_string();
        let mut source = self.cause.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors print their source themselves.
            if !said.contains(&text) {
                write!(f, ": {text}")?;
            }
            said = text;
            source = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?})", self.disposition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_the_whole_chain_once() {
        let error = Error::from(std::io::Error::other("disk on fire")).context("writing the order");
        assert_eq!(error.to_string(), "writing the order: disk on fire");
        assert_eq!(error.disposition(), Disposition::Retry);
    }
}

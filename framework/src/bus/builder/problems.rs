//! What is wrong with a bus that cannot be built.

use std::fmt;

use crate::{destination::DestinationError, pipeline::UnknownStep};

/// One thing that is wrong with a bus, with the code of its page under `docs/errors/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// For instance `BRD012`.
    pub code: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// A bus that cannot be built. Prints every problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct BuildError {
    /// The bus.
    pub bus: String,
    /// Everything that is wrong with it.
    pub problems: Vec<Problem>,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bus {:?} cannot be built", self.bus)?;
        for problem in &self.problems {
            write!(f, "\nerror {}: {}\n  {}", problem.code, problem.what, problem.remedy)?;
        }
        Ok(())
    }
}

pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, code: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Problem { code, what: what.into(), remedy: remedy.into() });
    }

    pub(super) fn name<T>(&mut self, checked: Result<T, DestinationError>) -> Option<T> {
        checked
            .map_err(|error| self.add("BRD016", error.to_string(), "choose a name that every broker takes"))
            .ok()
    }

    pub(super) fn step(&mut self, inserted: Result<(), UnknownStep>) {
        if let Err(error) = inserted {
            self.add(
                "BRD015",
                error.to_string(),
                "name one of the steps in Position::Before or Position::After",
            );
        }
    }
}

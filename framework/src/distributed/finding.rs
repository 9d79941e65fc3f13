//! What a look at a database found that matters to distributed transactions.
//!
//! The looks themselves are in `store/*/examine.rs`, begun by [`examine`](crate::store::distributed::examine).

use std::fmt;

use serde::Serialize;

/// What a database is to a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// It has the decision log.
    Home,
    /// It is prepared.
    Branch,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, and somebody should know.
    Warning,
    /// Transactions fail, or a promise does not hold.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at: `slots`, `role`, `pooler`. The names are stable.
    pub check: &'static str,
    /// What was found, and what to do about it.
    pub detail: String,
}

impl Finding {
    /// As it should be.
    #[must_use]
    pub fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { severity: Severity::Ok, check, detail: detail.into() }
    }

    /// Somebody should know.
    #[must_use]
    pub fn warning(check: &'static str, detail: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, check, detail: detail.into() }
    }

    /// Somebody has to change it.
    #[must_use]
    pub fn error(check: &'static str, detail: impl Into<String>) -> Self {
        Self { severity: Severity::Error, check, detail: detail.into() }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

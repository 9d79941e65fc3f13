//! How transactions, branches and databases are called.

use std::{fmt, str::FromStr};

use serde::Serialize;
use uuid::Uuid;

/// The global id of one distributed transaction. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Gid(pub Uuid);

impl Gid {
    /// A new one.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Gid {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Which decision log a transaction belongs to: the log's own id, not a process's. Every process on one log has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct CoordinatorId {
    /// The log's.
    pub id: Uuid,
    /// One more after each restore of the log from a backup: what older epochs prepared is left alone.
    pub epoch: u32,
}

impl fmt::Display for CoordinatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id.simple(), self.epoch)
    }
}

/// One branch of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BranchId {
    /// The log that decides.
    pub coordinator: CoordinatorId,
    /// The transaction.
    pub gid: Gid,
    /// The place of the branch in it, from 0.
    pub ordinal: u16,
}

/// What [`BranchId`] is written with: nothing but lower case letters, digits, `-`, `.` and `:`, at most 91 bytes.
impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "barid:{}:{}:{}", self.coordinator, self.gid, self.ordinal)
    }
}

impl BranchId {
    /// What the names of all branches of a log begin with.
    #[must_use]
    pub fn prefix(coordinator: CoordinatorId) -> String {
        format!("barid:{coordinator}:")
    }

    /// Reads what `Display` writes; `None` when it is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("barid:")?.split(':');
        let (id, epoch) = parts.next()?.split_once('.')?;
        let coordinator = CoordinatorId { id: Uuid::try_parse(id).ok()?, epoch: epoch.parse().ok()? };
        let branch =
            Self { coordinator, gid: parts.next()?.parse().ok()?, ordinal: parts.next()?.parse().ok()? };
        (branch.to_string() == text).then_some(branch)
    }
}

/// The name of a database that takes part, the same in every process: recovery looks for branches under it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ResourceId(String);

impl ResourceId {
    /// Letters, digits, `.`, `_` and `-`, 1 to 100 bytes.
    ///
    /// # Errors
    /// [`BadResourceId`] when it is anything else.
    pub fn new(name: impl Into<String>) -> Result<Self, BadResourceId> {
        let name = name.into();
        let fits = (1..=100).contains(&name.len());
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if fits && plain { Ok(Self(name)) } else { Err(BadResourceId(name)) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that no resource can have.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} cannot name a resource: use 1 to 100 letters, digits, '.', '_' or '-'")]
pub struct BadResourceId(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_read_as_it_was_written_and_nothing_else_is() {
        let coordinator = CoordinatorId { id: Uuid::now_v7(), epoch: 3 };
        let branch = BranchId { coordinator, gid: Gid::fresh(), ordinal: u16::MAX };
        let text = branch.to_string();
        assert!(text.len() <= 91 && text.starts_with(&BranchId::prefix(coordinator)), "{text}");
        assert_eq!(BranchId::parse(&text), Some(branch));
        for other in [text.to_uppercase(), format!("{text}:1"), format!(" {text}"), "barid:x".to_owned()] {
            assert_eq!(BranchId::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn a_resource_has_a_plain_name() {
        assert_eq!(ResourceId::new("billing-eu_1.x").unwrap().as_str(), "billing-eu_1.x");
        for bad in ["", "a b", "a'b", "%", "ä", &"x".repeat(101)] {
            assert!(ResourceId::new(bad).is_err(), "{bad}");
        }
    }
}

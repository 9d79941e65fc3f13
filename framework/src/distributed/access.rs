//! Who may do what with distributed transactions. A denial is written down, with who, what and why.

use std::{fmt, sync::Arc};

/// Who asks: a user, a service, an operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal(String);

impl Principal {
    /// Under this name, which appears in the audit.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What somebody wants to do with a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Begin it.
    Begin,
    /// Commit it, from this process or another one.
    Commit,
    /// Roll it back.
    Rollback,
    /// Decide by hand what recovery could not.
    Resolve,
    /// Remove what is kept of it.
    Forget,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begin => "begin",
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::Resolve => "resolve",
            Self::Forget => "forget",
        })
    }
}

/// Decides who may do what. Asked before anything is done; it must not wait for anybody.
pub trait AccessPolicy: Send + Sync + 'static {
    /// Whether `principal` may do `action` with the transaction `name`.
    ///
    /// # Errors
    /// Why not: a text for the one who asked and for the audit.
    fn check(&self, principal: &Principal, action: Action, name: &str) -> Result<(), String>;
}

/// Everybody may do everything: for programs whose database decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl AccessPolicy for AllowAll {
    fn check(&self, _: &Principal, _: Action, _: &str) -> Result<(), String> {
        Ok(())
    }
}

impl<F> AccessPolicy for F
where
    F: Fn(&Principal, Action, &str) -> Result<(), String> + Send + Sync + 'static,
{
    fn check(&self, principal: &Principal, action: Action, name: &str) -> Result<(), String> {
        self(principal, action, name)
    }
}

/// The policy said no. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{principal} may not {action} transaction {name:?}: {reason}")]
pub struct AccessDenied {
    /// Who asked.
    pub principal: Principal,
    /// For what.
    pub action: Action,
    /// Of which transaction.
    pub name: String,
    /// Why not.
    pub reason: String,
}

/// A policy with its audit: what it denies is logged on the target `transactions`.
#[derive(Clone)]
pub struct Access(Arc<dyn AccessPolicy>);

impl Access {
    /// What `policy` says.
    pub fn new(policy: impl AccessPolicy) -> Self {
        Self(Arc::new(policy))
    }

    /// Asks the policy.
    ///
    /// # Errors
    /// [`AccessDenied`].
    pub fn check(&self, principal: &Principal, action: Action, name: &str) -> Result<(), AccessDenied> {
        self.0.check(principal, action, name).map_err(|reason| {
            tracing::warn!(target: "transactions", %principal, %action, name, reason, "denied");
            AccessDenied { principal: principal.clone(), action, name: name.to_owned(), reason }
        })
    }
}

impl Default for Access {
    fn default() -> Self {
        Self::new(AllowAll)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_sees_who_what_and_which() {
        let access = Access::new(|who: &Principal, what: Action, name: &str| {
            match what == Action::Begin || who.name() == "operator" || name.starts_with(who.name()) {
                true => Ok(()),
                false => Err("it is somebody else's".to_owned()),
            }
        });
        let (ann, operator) = (Principal::new("ann"), Principal::new("operator"));
        for (who, what, name, may) in [
            (&ann, Action::Begin, "bob.1", true),
            (&ann, Action::Commit, "ann.1", true),
            (&ann, Action::Commit, "bob.1", false),
            (&operator, Action::Resolve, "bob.1", true),
        ] {
            assert_eq!(access.check(who, what, name).is_ok(), may, "{who} {what} {name}");
        }
        let denied = access.check(&ann, Action::Rollback, "bob.1").unwrap_err().to_string();
        assert_eq!(denied, "ann may not rollback transaction \"bob.1\": it is somebody else's");
        Access::default().check(&ann, Action::Forget, "x").unwrap();
    }
}

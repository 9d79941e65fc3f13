//! The roles of `barid-relay grants print`, made in the database of a [`Place`], with what it prints granted to them.

#![allow(clippy::unwrap_used)] // what a test needs, a test may insist on

use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection};
use url::Url;

use crate::place::{Kind, PATIENCE, Place};
use crate::{Process, names};

/// Three roles that nobody else uses.
#[derive(Debug)]
pub struct Roles {
    /// Writes messages.
    pub app: String,
    /// The relay's.
    pub relay: String,
    /// Decides about parked messages.
    pub operator: String,
}

impl Roles {
    /// Names only.
    #[must_use]
    #[allow(clippy::new_without_default)] // each call gives other names
    pub fn new() -> Self {
        // MariaDB's names of users have at most 80 characters, MySQL's 32.
        let name = |what: &str| {
            let unique = names::unique(what).replace(['-', '.'], "_");
            let end = unique.len() - 12;
            format!("{what}_{}", &unique[end..])
        };
        Self { app: name("app"), relay: name("relay"), operator: name("operator") }
    }

    /// Makes them in the database of a place, with the password `x`, and grants what the program prints.
    pub async fn of(place: &Place) -> Self {
        let roles = Self::new();
        let (dialect, create) = match place.kind {
            Kind::Postgres => ("postgres", "CREATE ROLE {} LOGIN PASSWORD 'x'"),
            _ => ("mysql", "CREATE USER '{}'@'%' IDENTIFIED BY 'x'"),
        };
        for role in roles.all() {
            place.execute(&create.replace("{}", role)).await;
        }
        place.execute(&roles.printed(place, dialect).await).await;
        roles
    }

    /// What `grants print` says for them.
    pub async fn printed(&self, place: &Place, dialect: &str) -> String {
        let arguments = ["grants", "print", "--dialect", dialect, "--app", &self.app, "--relay", &self.relay];
        let mut process = Process::relay([&arguments[..], &["--operator", &self.operator]].concat());
        let status = process.ended(PATIENCE).await;
        let said = process.log().join("\n");
        assert!(status.success(), "{said}");
        assert!(place.kind == Kind::Sqlite || self.all().iter().all(|role| said.contains(*role)), "{said}");
        said
    }

    /// All three.
    #[must_use]
    pub fn all(&self) -> [&str; 3] {
        [&self.app, &self.relay, &self.operator]
    }

    /// Takes them away again.
    pub async fn drop_from(&self, place: &Place) {
        for role in self.all() {
            let drop = match place.kind {
                Kind::Postgres => format!("DROP OWNED BY {role}; DROP ROLE {role}"),
                _ => format!("DROP USER '{role}'@'%'"),
            };
            place.execute(&drop).await;
        }
    }
}

/// The address of a place's database for one of its roles.
#[must_use]
pub fn as_role(place: &Place, role: &str) -> String {
    let mut url = Url::parse(&place.url).unwrap();
    url.set_username(role).unwrap();
    url.set_password(Some("x")).unwrap();
    url.into()
}

/// One statement by one who has logged in as this role.
///
/// # Errors
/// What the database says.
pub async fn tried(place: &Place, role: &str, statement: &str) -> Result<(), sqlx::Error> {
    let (url, text) = (as_role(place, role), sqlx::raw_sql(AssertSqlSafe(statement.to_owned())));
    match place.kind {
        Kind::Postgres => PgConnection::connect(&url).await.unwrap().execute(text).await.map(drop),
        _ => MySqlConnection::connect(&url).await.unwrap().execute(text).await.map(drop),
    }
}

/// What a role may do, and what it may not.
pub async fn may(place: &Place, role: &str, allowed: &[&str], refused: &[&str]) {
    for (statement, expected) in
        allowed.iter().map(|text| (text, true)).chain(refused.iter().map(|text| (text, false)))
    {
        let done = tried(place, role, statement).await;
        assert_eq!(done.is_ok(), expected, "{:?} {role}: {statement}: {done:?}", place.kind);
        if let Err(error) = done {
            let said = error.to_string();
            let refused = said.contains("denied") || said.contains("must be owner");
            assert!(refused, "refused for another reason: {statement}: {said}");
        }
    }
}

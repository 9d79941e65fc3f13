//! `barid-relay grants print`: the least that each role needs, as SQL.

use barid::store::Dialect;
use clap::{Args, Subcommand};

use super::{DialectName, Failure};
use crate::source::identifier::Identifier;

#[derive(Debug, Subcommand)]
pub(super) enum Grants {
    /// Prints GRANTs for the application, the relay and operators.
    Print(Print),
}

#[derive(Debug, Args)]
pub(super) struct Print {
    /// Whose SQL.
    #[arg(long)]
    dialect: DialectName,
    /// The role that writes messages.
    #[arg(long, default_value = "barid_app")]
    app: Identifier,
    /// The role of the relay.
    #[arg(long, default_value = "barid_relay")]
    relay: Identifier,
    /// The role of those who use `barid-relay parked` and `status`.
    #[arg(long, default_value = "barid_operator")]
    operator: Identifier,
}

pub(super) fn grants(Grants::Print(print): &Grants) -> Result<(), Failure> {
    println!("{}", text(print).trim_end());
    Ok(())
}

fn text(print: &Print) -> String {
    let dialect = Dialect::from(print.dialect);
    let text = match dialect {
        Dialect::Postgres => include_str!("grants/postgres.sql"),
        Dialect::MySql => include_str!("grants/mysql.sql"),
        Dialect::Sqlite => include_str!("grants/sqlite.sql"),
    };
    let quoted = |role: &Identifier| match dialect {
        Dialect::MySql => format!("'{role}'@'%'"),
        Dialect::Postgres | Dialect::Sqlite => format!("\"{role}\""),
    };
    [("{app}", &print.app), ("{relay}", &print.relay), ("{operator}", &print.operator)]
        .into_iter()
        .fold(text.to_owned(), |text, (place, role)| text.replace(place, &quoted(role)))
}

//! The command line: what the program `barid-relay` does with its arguments.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use barid::store::Dialect;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{self, Config};

mod check;
mod doctor;
mod exit;
mod explain;
mod grants;
mod log;
mod on;
mod parked;
mod reload;
mod replay;
mod run;
mod saga;
mod schema;
mod status;
mod terminal;
mod tx;
mod version;

use self::{exit::Failure, terminal::Output};

/// Publishes a transactional outbox to RabbitMQ, Kafka or a SQL queue: in order per key, nothing lost.
#[derive(Debug, Parser)]
#[command(name = "barid-relay", version, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Works until SIGTERM or SIGINT; a second signal stops at once. SIGHUP reads the configuration again.
    Run(ConfigFile),
    /// Prints the effective configuration, without secrets, and tries every connection.
    Check(ConfigFile),
    /// How the sources and sinks are: whose they are, what waits, what is parked, what can be reached.
    #[command(after_help = status::HELP)]
    Status(status::Status),
    /// Looks for what is wrong around a relay, or will be, and says what to do about it.
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::Doctor),
    /// The tables in the database.
    Schema {
        #[command(subcommand)]
        command: SchemaCommand,
    },
    /// What each role may do, as SQL.
    Grants {
        #[command(subcommand)]
        command: grants::Grants,
    },
    /// Messages that cannot be delivered: looks at them, sends them again, goes on without them.
    #[command(after_help = parked::HELP)]
    Parked(Box<parked::Parked>),
    /// Sends published messages again, from the archive: one, those of a key, or those of a time.
    #[command(after_help = replay::HELP)]
    Replay(Box<replay::Replay>),
    /// Where a message is: waiting and for what, parked and why, or published and when.
    #[command(after_help = explain::HELP)]
    Explain(explain::Explain),
    /// Distributed transactions: looks at them, decides by hand what nobody decided, checks the databases.
    #[command(after_help = tx::HELP)]
    Tx(Box<tx::Tx>),
    /// Orchestrated sagas: looks at them, tries again what is stuck, goes on without it.
    #[command(after_help = saga::HELP)]
    Saga(Box<saga::Saga>),
    /// What this program is, and what it was built with.
    Version {
        /// A line for people, or JSON for programs.
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Prints a script that completes commands and options: source <(barid-relay completions bash)
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration; every key can be overridden: BARID_RELAY__SOURCE__NAME__URL=...
    #[arg(long, default_value = "relay.toml", env = "BARID_RELAY_CONFIG")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum SchemaCommand {
    /// Prints the SQL, for people who apply it by other means.
    Print {
        /// Whose SQL.
        #[arg(long)]
        dialect: DialectName,
    },
    /// Applies what is missing. Safe when two do it at once.
    Apply {
        /// The address of a database, instead of those in the configuration. In the environment it stays out of `ps`.
        #[arg(long, env = "BARID_RELAY_SCHEMA_URL", hide_env_values = true)]
        url: Option<String>,
        #[command(flatten)]
        file: ConfigFile,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DialectName {
    Postgres,
    Mysql,
    Sqlite,
}

impl From<DialectName> for Dialect {
    fn from(name: DialectName) -> Self {
        match name {
            DialectName::Postgres => Self::Postgres,
            DialectName::Mysql => Self::MySql,
            DialectName::Sqlite => Self::Sqlite,
        }
    }
}

/// Runs the program with these arguments, the first being its name.
pub async fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        Command::Run(file) => run::run(&file.config).await,
        Command::Check(file) => check::check(&file.config).await,
        Command::Schema { command: SchemaCommand::Print { dialect } } => schema::print(dialect),
        Command::Schema { command: SchemaCommand::Apply { url, file } } => {
            schema::apply(url, &file.config).await
        }
        Command::Doctor(command) => Box::pin(doctor::doctor(&command)).await,
        Command::Status(command) => status::status(&command).await,
        Command::Grants { command } => grants::grants(&command),
        Command::Version { output } => {
            version::version(output);
            Ok(())
        }
        Command::Completions { shell } => {
            version::completions(shell);
            Ok(())
        }
        Command::Parked(command) => parked::parked(*command).await,
        Command::Replay(command) => Box::pin(replay::replay(*command)).await,
        Command::Explain(command) => Box::pin(explain::explain(&command)).await,
        Command::Tx(command) => tx::tx(*command).await,
        Command::Saga(command) => saga::saga(*command).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.code()
        }
    }
}

/// Reads the configuration with the process's environment over it.
fn load(file: &std::path::Path) -> Result<Config, Failure> {
    Ok(config::read(
        file,
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    )?)
}

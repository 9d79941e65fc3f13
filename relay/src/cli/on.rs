//! What the commands `parked`, `replay`, `tx` and `saga` have in common: about which source, in which form, and why something is changed.

use clap::{Args, builder::NonEmptyStringValueParser};

use super::{
    ConfigFile, Failure, load,
    terminal::{Output, user},
};
use crate::config::{Config, SourceConfig};

/// Where, and how it is shown.
#[derive(Debug, Args)]
pub(super) struct On {
    #[command(flatten)]
    file: ConfigFile,
    /// The NAME of [source.NAME]; needed when the configuration has several.
    #[arg(long)]
    source: Option<String>,
    /// A table for people, or JSON for programs.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
}

/// What every change needs beside what it is about.
#[derive(Debug, Args)]
pub(super) struct Because {
    /// Why. It is kept beside the data, in the table relay_audit or dtx_audit.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(super) reason: String,
    /// Who you are, for that table.
    #[arg(long, env = "BARID_OPERATOR", default_value_t = user())]
    pub(super) by: String,
    /// Only says what would be done.
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl On {
    pub(super) fn config(&self) -> Result<Config, Failure> {
        load(&self.file.config)
    }

    /// The source that an operator means: the one he names, or the only one.
    pub(super) fn source<'a>(&self, config: &'a Config) -> Result<(&'a String, &'a SourceConfig), Failure> {
        let names = || config.source.keys().cloned().collect::<Vec<_>>().join(", ");
        match &self.source {
            Some(name) => config
                .source
                .get_key_value(name)
                .ok_or_else(|| Failure::Usage(format!("there is no [source.{name}] (sources: {})", names()))),
            None if config.source.len() > 1 => {
                Err(Failure::Usage(format!("which source? Add --source, one of: {}", names())))
            }
            None => config.source.first_key_value().ok_or_else(|| Failure::Usage("no source".to_owned())),
        }
    }
}

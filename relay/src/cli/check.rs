//! `barid-relay check`

use std::path::Path;

use super::{Failure, exit, load};
use crate::{
    config::SourceConfig,
    lease::Candidate,
    setup::{self, SetupError},
};

pub(super) async fn check(file: &Path) -> Result<(), Failure> {
    let config = load(file)?;
    println!("{config}");
    if let Some((what, remedy)) = crate::config::exposure(file, &config) {
        eprintln!("warning: {what}; {remedy}");
    }
    let (mut failed, mut worst) = (0, 0);
    for (name, source) in &config.source {
        let result = match setup::database(name, source).await {
            Ok(pool) => source_works(name, source, &pool).await.map_err(SetupError::from),
            Err(error) => Err(error),
        };
        tell(&format!("[source.{name}]"), result, &mut failed, &mut worst);
    }
    for (name, sink) in &config.sink {
        let section = format!("[sink.{name}]");
        let result = match setup::transport(&config, name, sink).await {
            Ok(transport) => {
                let works = setup::sink_works(&config, name, transport).await;
                works.map_err(|cause| SetupError::Transport { section: section.clone(), cause })
            }
            Err(error) => Err(error),
        };
        tell(&section, result, &mut failed, &mut worst);
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Checks(failed, worst)) }
}

/// Whether the outbox can be read, and whose it is; another relay at work is fine.
async fn source_works(
    name: &str,
    config: &SourceConfig,
    pool: &barid::store::AnyPool,
) -> Result<(), crate::source::SourceError> {
    let source = crate::source::open::source_with(name, pool, &config.options())?;
    source.writer().await?.held_keys(None).await?;
    source.reader().await?;
    let nobody = Candidate { name: "check".to_owned(), process: String::new() };
    let holder = source.leases(&nobody).await?.look().await?;
    if !holder.left.is_zero() {
        println!("[source.{name}]: another relay is at work: {holder}");
    }
    Ok(())
}

fn tell(section: &str, result: Result<(), SetupError>, failed: &mut usize, worst: &mut u8) {
    match result {
        Ok(()) => println!("{section}: ok"),
        Err(error) => {
            println!("{section}: FAILED");
            eprintln!("{error}");
            *failed += 1;
            *worst = (*worst).max(exit::setup(&error));
        }
    }
}

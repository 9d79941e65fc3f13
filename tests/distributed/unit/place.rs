//! A bank over databases of some kinds.

use std::{any::Any, time::Duration};

use barid::distributed::Settings;
use barid_tests::{TestDatabase, transfer::Bank};

pub(crate) const LONG: Duration = Duration::from_secs(120);

pub(crate) type Databases = Vec<Box<dyn Any>>;

/// A home and two others of these kinds.
pub(crate) async fn bank(kinds: &str, accounts: i64, settings: Settings) -> (Bank, Vec<String>, Databases) {
    let (mut urls, mut databases) = (Vec::new(), Databases::new());
    for kind in kinds.chars() {
        match kind {
            'p' => keep(TestDatabase::postgres().await, |d| d.url.clone(), &mut urls, &mut databases),
            'm' => keep(TestDatabase::mariadb().await, |d| d.url.clone(), &mut urls, &mut databases),
            _ => keep(TestDatabase::sqlite().await, |d| d.url.clone(), &mut urls, &mut databases),
        }
    }
    Bank::create(&urls, accounts).await.unwrap();
    (Bank::open(&urls, settings).await.unwrap(), urls, databases)
}

pub(crate) fn keep<D: 'static>(
    database: D,
    url: fn(&D) -> String,
    urls: &mut Vec<String>,
    databases: &mut Databases,
) {
    urls.push(url(&database));
    databases.push(Box::new(database));
}

//! The table `orchestration_marker` on MariaDB and MySQL.

use sqlx::{MySql, MySqlConnection};

use super::unit::number;
use crate::store::{
    backend::Recorded,
    orchestration::{Marker, MarkerRows},
    saga::SagaRows,
    statement::Statement,
};

impl MarkerRows for MySql {
    async fn insert_marker(
        connection: &mut MySqlConnection,
        marker: &Marker,
    ) -> Result<Recorded, sqlx::Error> {
        // MariaDB waits 2 s for whoever is at the step, MySQL, which reads a comment, as long as its settings say.
        let insert = Statement::new(
            "/*M! SET STATEMENT innodb_lock_wait_timeout=2 FOR */\
             INSERT INTO orchestration_marker(id,step,op,state)VALUES(",
        );
        match Self::ask(connection, &marker.values(insert).sql(")")).await {
            Ok(_) => Ok(Recorded::Fresh),
            // ER_DUP_ENTRY: a committed marker. ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK: a transaction that has not ended holds it.
            Err(error) => match number(&error) {
                Some(1062) => Ok(Recorded::Duplicate),
                Some(1205 | 1213) => Ok(Recorded::InProgress),
                _ => Err(error),
            },
        }
    }
}

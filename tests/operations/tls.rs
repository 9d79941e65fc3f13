//! Encryption through the real program: certificates that the test makes, servers that use them, and names that are not theirs.
//!
//! The servers' certificate is for `localhost`. By the address 127.0.0.1 it proves nothing.

#![allow(clippy::unwrap_used, missing_docs)] // a test

#[path = "tls/authority.rs"]
mod authority;

use std::net::TcpListener;

use barid::store::{AnyPool, schema};
use barid::{RabbitMq, Transport, headers, transport::Inbox};
use barid_tests::{PrivateServer, Process, names, place::PATIENCE};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use self::authority::{Authority, Certificate};

/// A RabbitMQ that takes encrypted connections beside the others, and where.
async fn broker(certificate: &Certificate) -> (PrivateServer, u16) {
    // Free until somebody else takes it: nobody else is on this machine but tests.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let Certificate { ca, own, key } = certificate;
    let options = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n",
        ca.display(),
        own.display(),
        key.display()
    );
    (PrivateServer::rabbitmq(&options).await, port)
}

/// The relay's configuration, in a file, and one command on it.
struct Relay {
    folder: tempfile::TempDir,
    ca: String,
    queue: String,
}

impl Relay {
    fn configure(&self, source: &str, sink: &str, with_ca: bool) {
        let ca = if with_ca { format!("ca_file = {:?}\n", self.ca) } else { String::new() };
        let text = format!(
            "[source.main]\nurl = {source:?}\n\n[sink.out]\nkind = \"rabbitmq\"\nurl = {sink:?}\n{ca}\n\
             [[route]]\ndestination = \"queue:{}\"\nsink = \"out\"\n",
            self.queue
        );
        std::fs::write(self.folder.path().join("relay.toml"), text).unwrap();
    }

    fn start(&self, command: &str) -> Process {
        let config = self.folder.path().join("relay.toml");
        Process::relay([command.as_ref(), "--config".as_ref(), config.as_os_str()])
    }

    async fn check(&self) -> (i32, String) {
        let mut check = self.start("check");
        let code = check.ended(PATIENCE).await.code().unwrap();
        (code, check.log().join("\n"))
    }

    /// One row through the relay at work.
    async fn carries(&self, pool: &AnyPool, broker: &RabbitMq, id: Uuid) -> Process {
        let row = format!("'queue:{}', 'order', 'a', 'orders.placed'", self.queue);
        let columns = "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type) VALUES";
        let hex = id.simple();
        match pool {
            AnyPool::Postgres(pool) => {
                let text = AssertSqlSafe(format!("{columns} ('{id}', {row})"));
                sqlx::raw_sql(text).execute(pool).await.map(drop).unwrap();
            }
            AnyPool::MySql(pool) => {
                let text = AssertSqlSafe(format!("{columns} (X'{hex}', {row})"));
                sqlx::raw_sql(text).execute(pool).await.map(drop).unwrap();
            }
            AnyPool::Sqlite(pool) => {
                let text = AssertSqlSafe(format!("{columns} (X'{hex}', {row})"));
                sqlx::raw_sql(text).execute(pool).await.map(drop).unwrap();
            }
            other => panic!("{other:?}"),
        }
        let relay = self.start("run");
        let mut consumer = broker.consumer(&Inbox::new(&self.queue)).await.unwrap();
        let got = tokio::time::timeout(PATIENCE, consumer.receive()).await.expect("the row").unwrap();
        assert_eq!(got.headers.get(headers::ID), Some(id.to_string().as_str()));
        got.settlement.ack().await.unwrap();
        consumer.close().await.unwrap();
        relay
    }
}

/// `url` by the name that the certificate has.
fn by_name(url: &str) -> String {
    url.replace("@127.0.0.1:", "@localhost:")
}

fn refused((code, said): (i32, String), texts: &[&str]) {
    assert_eq!(code, 4, "{said}");
    for text in texts {
        assert!(said.contains(text), "lacks {text:?}:\n{said}");
    }
}

#[tokio::test]
async fn everything_is_encrypted_and_a_wrong_name_is_refused() {
    let authority = Authority::new();
    let certificate = authority.certificate("localhost");
    let (postgres, mariadb) = (
        authority.certificate_for("localhost", "postgres").await,
        authority.certificate_for("localhost", "mysql").await,
    );
    let of_postgres = format!(
        "-c ssl=on -c ssl_cert_file={} -c ssl_key_file={}",
        postgres.own.display(),
        postgres.key.display()
    );
    let of_mariadb = format!(
        "--ssl-ca={} --ssl-cert={} --ssl-key={} --require-secure-transport=OFF",
        mariadb.ca.display(),
        mariadb.own.display(),
        mariadb.key.display()
    );
    let ((rabbit, port), postgres, mariadb) = tokio::join!(
        broker(&certificate),
        PrivateServer::postgres(&of_postgres),
        PrivateServer::mariadb(&of_mariadb)
    );
    let ca = certificate.ca.to_str().unwrap().to_owned();
    let relay = Relay { folder: tempfile::tempdir().unwrap(), ca: ca.clone(), queue: names::unique("tls") };
    let client = RabbitMq::connect(&rabbit.url).await.unwrap();
    client.declare(&Inbox::new(&relay.queue)).await.unwrap();
    let amqps = format!("amqps://guest:guest@localhost:{port}/%2f");

    let file = format!("sqlite://{}/outbox.db", relay.folder.path().display());
    for (plain, encrypted, remedy) in [
        (
            &postgres.url,
            format!("{}?sslmode=verify-full&sslrootcert={ca}", by_name(&postgres.url)),
            "sslrootcert=FILE",
        ),
        (
            &mariadb.url,
            format!("{}?ssl-mode=VERIFY_IDENTITY&ssl-ca={ca}", by_name(&mariadb.url)),
            "ssl-ca=FILE",
        ),
        (&file, file.clone(), ""),
    ] {
        let pool = AnyPool::connect(plain, 2).await.unwrap();
        schema::apply(&pool).await.unwrap();
        demand_encryption(&pool).await;
        relay.configure(&encrypted, &amqps, true);
        let (code, said) = relay.check().await;
        assert_eq!(code, 0, "{said}");
        let running = relay.carries(&pool, &client, Uuid::now_v7()).await;
        assert!(encrypts(&pool).await, "{encrypted}");
        assert!(running.terminate(PATIENCE).await.0.success());
        if !remedy.is_empty() {
            // Another name, and an authority that nobody knows.
            relay.configure(&encrypted.replace("@localhost:", "@127.0.0.1:"), &amqps, true);
            refused(
                relay.check().await,
                &["[source.main]: FAILED", "no safe connection", "certificate", remedy],
            );
            let unknown = encrypted.split("&").next().unwrap();
            relay.configure(unknown, &amqps, true);
            refused(relay.check().await, &["[source.main]: FAILED", "UnknownIssuer", remedy]);
        }
        pool.close().await;
    }
    relay.configure(&file, &amqps.replace("localhost", "127.0.0.1"), true);
    refused(
        relay.check().await,
        &["[sink.out]: FAILED", "certificate", "the host as the certificate names it"],
    );
    relay.configure(&file, &amqps, false);
    refused(relay.check().await, &["[sink.out]: FAILED", "UnknownIssuer", "ca_file"]);
}

/// Lets only encrypted connections in, where a server can be told so while it runs.
async fn demand_encryption(pool: &AnyPool) {
    if let AnyPool::MySql(pool) = pool {
        sqlx::raw_sql("ALTER USER CURRENT_USER() REQUIRE SSL").execute(pool).await.unwrap();
    }
}

/// Whether each connection of the relay is encrypted, by the account of a PostgreSQL.
async fn encrypts(pool: &AnyPool) -> bool {
    let AnyPool::Postgres(pool) = pool else { return true };
    let text = "SELECT count(*) > 0 AND bool_and(s.ssl) FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) \
        WHERE a.application_name = 'barid-relay'";
    sqlx::query_scalar(text).fetch_one(pool).await.unwrap()
}

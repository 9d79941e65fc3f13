//! Where the servers are.
//!
//! Read from the environment, which `tests/run` fills. A missing variable fails the test that asked: nothing is skipped.

use std::net::SocketAddr;

use url::Url;

/// A PostgreSQL whose user may create databases: `postgres://user:password@host:port/database`.
#[must_use]
pub fn postgres() -> String {
    required("BARID_TEST_POSTGRES_URL")
}

/// A MariaDB or MySQL whose user may create databases: `mysql://user:password@host:port/database`.
#[must_use]
pub fn mariadb() -> String {
    required("BARID_TEST_MARIADB_URL")
}

/// A RabbitMQ: `amqp://user:password@host:port/%2f`.
#[must_use]
pub fn amqp() -> String {
    required("BARID_TEST_AMQP_URL")
}

/// The bootstrap servers of a Kafka: `host:port`.
#[must_use]
pub fn kafka() -> String {
    required("BARID_TEST_KAFKA")
}

/// Whether stress and fault tests run with their full counts (`tests/run --long`).
#[must_use]
pub fn long() -> bool {
    std::env::var_os("BARID_TEST_LONG").is_some()
}

/// The `host:port` of a server's URL: what a [`Proxy`](crate::Proxy) connects to.
#[must_use]
pub fn address_of(url: &str) -> String {
    let url = parsed(url);
    let port = url.port().unwrap_or(match url.scheme() {
        "postgres" | "postgresql" => 5432,
        "mysql" | "mariadb" => 3306,
        "amqp" => 5672,
        scheme => panic!("no default port is known for {scheme}: write the port into the URL"),
    });
    format!("{}:{port}", url.host_str().expect("the URL of a server has a host"))
}

/// The same URL with another address, such as that of a proxy. Without TLS, so that the proxy can read along.
#[must_use]
pub fn through(url: &str, address: SocketAddr) -> String {
    let mut url = parsed(url);
    url.set_ip_host(address.ip()).expect("the URL of a server can have another host");
    url.set_port(Some(address.port())).expect("the URL of a server can have another port");
    match url.scheme() {
        "postgres" | "postgresql" => url.query_pairs_mut().append_pair("sslmode", "disable"),
        "mysql" | "mariadb" => url.query_pairs_mut().append_pair("ssl-mode", "disabled"),
        _ => return url.into(),
    };
    url.into()
}

fn required(variable: &str) -> String {
    std::env::var(variable).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| {
        panic!(
            "{variable} is not set, and this test needs the server\n  \
             run `tests/run`, or start the servers with `tests/services/up DIR` and `. DIR/env`"
        )
    })
}

fn parsed(url: &str) -> Url {
    // The URL may hold a password: the message does not repeat it.
    Url::parse(url).unwrap_or_else(|error| panic!("the URL of a test server cannot be parsed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_through_a_proxy() {
        let proxy = "127.0.0.1:4711".parse().unwrap();
        let check = |url: &str, address: &str, proxied: &str| {
            assert_eq!(address_of(url), address, "{url}");
            assert_eq!(through(url, proxy), proxied, "{url}");
        };
        check("postgres://u:p@db/x", "db:5432", "postgres://u:p@127.0.0.1:4711/x?sslmode=disable");
        check("mysql://u:p@db:1/x", "db:1", "mysql://u:p@127.0.0.1:4711/x?ssl-mode=disabled");
        check("amqp://u:p@mq/%2f", "mq:5672", "amqp://u:p@127.0.0.1:4711/%2f");
    }
}

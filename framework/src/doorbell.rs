//! Tells a relay that something was committed: one in this process, or one that listens at an address of this machine.
//!
//! Rung after COMMIT, by the bus, [`Outbox::ring`](crate::Outbox::ring) and the schedule. A ring is a hint: it carries nothing, never blocks,
//! never fails anybody, and may be lost, which costs latency only, because a relay polls as well.

use std::{fmt, io, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc};

use tokio::sync::Notify;

/// Wakes a relay. Clones are the same doorbell.
#[derive(Clone, Debug, Default)]
pub struct Doorbell(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    here: Notify,
    elsewhere: Option<Wire>,
}

impl Doorbell {
    /// A doorbell that nobody has rung, for a relay in the same process.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A doorbell whose rings also go to the relay that listens at `address`, as one datagram each.
    ///
    /// # Errors
    /// When no socket can be made. That nobody listens there is no error.
    pub fn to(address: Address) -> io::Result<Self> {
        let elsewhere = Some(Wire::to(address)?);
        Ok(Self(Arc::new(Inner { here: Notify::new(), elsewhere })))
    }

    /// Wakes whoever waits, or the next one who will. Returns at once.
    pub fn ring(&self) {
        self.0.here.notify_one();
        if let Some(wire) = &self.0.elsewhere {
            wire.ring();
        }
    }

    /// Waits for a ring in this process; rings that nobody waited for count as one. Cancel safe.
    pub async fn rung(&self) {
        self.0.here.notified().await;
    }
}

/// Where a relay listens: `unix:/run/barid/orders.sock`, or `udp:127.0.0.1:7117`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A Unix datagram socket, by its absolute path.
    Unix(PathBuf),
    /// A UDP socket on the loopback: a ring never leaves the machine.
    Udp(SocketAddr),
}

/// A text that is no address of a doorbell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no doorbell: write unix:/absolute/path, or udp:127.0.0.1:PORT")]
pub struct NotAnAddress(String);

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unix = text.strip_prefix("unix:").map(PathBuf::from).filter(|path| path.is_absolute());
        let udp = text.strip_prefix("udp:").and_then(|address| address.parse().ok());
        let udp = udp.filter(|address: &SocketAddr| address.ip().is_loopback() && address.port() != 0);
        let address = unix.filter(|_| cfg!(unix)).map(Self::Unix).or(udp.map(Self::Udp));
        address.ok_or_else(|| NotAnAddress(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(address) => write!(f, "udp:{address}"),
        }
    }
}

/// The sending end. Its socket never blocks: when the other end has no room, a ring is waiting there already.
#[derive(Debug)]
enum Wire {
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixDatagram, PathBuf),
    Udp(std::net::UdpSocket, SocketAddr),
}

impl Wire {
    fn to(address: Address) -> io::Result<Self> {
        match address {
            #[cfg(unix)]
            Address::Unix(path) => {
                let socket = std::os::unix::net::UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                Ok(Self::Unix(socket, path))
            }
            #[cfg(not(unix))]
            Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
            Address::Udp(address) => {
                let socket = std::net::UdpSocket::bind(SocketAddr::new(address.ip(), 0))?;
                socket.set_nonblocking(true)?;
                Ok(Self::Udp(socket, address))
            }
        }
    }

    fn ring(&self) {
        let sent = match self {
            #[cfg(unix)]
            Self::Unix(socket, path) => socket.send_to(b"!", path),
            Self::Udp(socket, address) => socket.send_to(b"!", address),
        };
        if let Err(error) = sent
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::trace!(%error, "nobody heard the doorbell; the relay finds the rows at its next poll");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for text in ["unix:/run/barid/orders.sock", "udp:127.0.0.1:7117", "udp:[::1]:7117"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in
            ["", "unix:", "unix:a.sock", "udp:127.0.0.1:0", "udp:10.0.0.1:7117", "udp:localhost:1", "tcp:x"]
        {
            assert!(
                text.parse::<Address>().unwrap_err().to_string().contains("unix:/absolute/path"),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn rings_before_the_wait_count_as_one() {
        let bell = Doorbell::new();
        bell.ring();
        bell.ring();
        bell.rung().await;
        assert!(futures::FutureExt::now_or_never(bell.rung()).is_none());
    }

    #[test]
    fn a_ring_travels_and_neither_a_missing_nor_a_deaf_relay_holds_anybody_up() {
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let bell = Doorbell::to(Address::Udp(listener.local_addr().unwrap())).unwrap();
        bell.ring();
        assert_eq!(listener.recv(&mut [0; 8]).unwrap(), 1);
        drop(listener);
        bell.ring();
    }

    #[cfg(unix)]
    #[test]
    fn a_full_socket_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bell");
        let bell = Doorbell::to(Address::Unix(path.clone())).unwrap();
        bell.ring(); // nobody there
        let deaf = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        (0..10_000).for_each(|_| bell.ring());
        assert_eq!(deaf.recv(&mut [0; 8]).unwrap(), 1);
    }
}

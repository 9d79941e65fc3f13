//! The sign of life of a relay: a name that the kernel keeps for exactly as long as the relay lives.
//!
//! A relay that is waiting can take over at once from an owner that is certainly dead, instead of waiting for the end of its
//! lease. That the owner's connection to the database has ended does not show it: the network may have failed, or the database,
//! and the owner publishes on until its deadline. So every relay binds a socket to a name of its own in the abstract namespace
//! of Unix sockets. The kernel frees the name when the process has ended, however it ended, and not while it is stopped. Who can
//! look at the same namespace, told by the number of the boot and of the network namespace, and finds nobody at that name,
//! knows: whoever held it publishes nothing any more. Names are never used twice. This works for processes of one host and of
//! one pod; for all others, and on other systems than Linux, the sign says nothing and the lease is waited for.

use std::os::unix::net::UnixDatagram;

use uuid::Uuid;

/// What can be seen of another relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It has certainly ended.
    Gone,
    /// It lives, perhaps stopped; or nothing can be seen from here.
    Unknown,
}

/// This relay's sign. It is gone when this value is dropped.
#[derive(Debug)]
pub struct Sign {
    process: String,
    /// Held, not used.
    _socket: Option<UnixDatagram>,
}

impl Sign {
    /// Shows a new sign. Where that cannot be done, others wait for the lease.
    #[must_use]
    pub fn show() -> Self {
        let name = Uuid::now_v7().to_string();
        let shown = place().and_then(|place| Some((bind(&name)?, place)));
        match shown {
            Some((socket, place)) => Self { process: format!("{name} {place}"), _socket: Some(socket) },
            None => Self { process: name, _socket: None },
        }
    }

    /// What others find it by: see [`life`].
    #[must_use]
    pub fn process(&self) -> &str {
        &self.process
    }
}

/// What can be seen from here of the relay that called itself so.
#[must_use]
pub fn life(process: &str) -> Life {
    match process.split_once(' ') {
        Some((name, where_it_was)) if place().is_some_and(|here| here == where_it_was) => look(name),
        _ => Life::Unknown,
    }
}

/// Which abstract namespace this process sees.
fn place() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let network = std::fs::read_link("/proc/self/ns/net").ok()?;
    Some(format!("{} {}", boot.trim(), network.display()))
}

#[cfg(target_os = "linux")]
fn address(name: &str) -> Option<std::os::unix::net::SocketAddr> {
    use std::os::linux::net::SocketAddrExt;

    std::os::unix::net::SocketAddr::from_abstract_name(format!("barid-relay {name}")).ok()
}

#[cfg(not(target_os = "linux"))]
fn address(_name: &str) -> Option<std::os::unix::net::SocketAddr> {
    None
}

fn bind(name: &str) -> Option<UnixDatagram> {
    UnixDatagram::bind_addr(&address(name)?).ok()
}

fn look(name: &str) -> Life {
    let Some(address) = address(name) else { return Life::Unknown };
    let Ok(socket) = UnixDatagram::unbound() else { return Life::Unknown };
    match socket.connect_addr(&address) {
        // Only this one says that nobody is there.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Life::Gone,
        _ => Life::Unknown,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_its_owner_and_is_known_only_here() {
        let (sign, other) = (Sign::show(), Sign::show());
        assert_ne!(sign.process(), other.process());
        let process = sign.process().to_owned();
        assert_eq!(life(&process), Life::Unknown);
        drop(sign);
        assert_eq!((life(&process), life(other.process())), (Life::Gone, Life::Unknown));
        let elsewhere = process.replace("net:", "net:0");
        assert_eq!(
            (life(&elsewhere), life("a name"), life("")),
            (Life::Unknown, Life::Unknown, Life::Unknown)
        );
    }
}

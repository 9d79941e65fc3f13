//! The socket at which a doorbell of another process is heard.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use barid::doorbell::{Address, Doorbell};
use tokio::{
    net::{UdpSocket, UnixDatagram},
    time::sleep,
};

/// Datagrams are taken in bundles this far apart: each bundle is one ring.
const BUNDLE: Duration = Duration::from_millis(1);

/// How many datagrams of a bundle are taken; what is beyond waits for the next one, or is dropped by the system.
const BUNDLE_DATAGRAMS_MAX: usize = 1_024;

/// The pause before an address is tried again that cannot be listened at.
const RETRY: Duration = Duration::from_secs(5);

/// Who may ring at a Unix socket: the relay's own user and its group.
#[cfg(unix)]
const MODE: u32 = 0o660;

/// Listens for datagrams, and rings a doorbell of this process for them.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// Of a Unix socket; only held.
    _file: Option<Bound>,
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

/// The file of a socket, removed with it.
#[derive(Debug)]
struct Bound {
    path: PathBuf,
    id: (u64, u64),
}

impl Listener {
    /// Listens at `address`. The file that a dead relay left at a Unix address is replaced, that of a living one is not.
    /// A Unix socket is open to the relay's user and group: put the programs that ring into that group.
    ///
    /// # Errors
    /// When the address is taken or cannot be used.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Udp(address) => {
                Ok(Self { socket: Socket::Udp(UdpSocket::bind(address).await?), _file: None })
            }
            Address::Unix(path) => {
                let (socket, file) = bind_unix(path)?;
                Ok(Self { socket: Socket::Unix(socket), _file: Some(file) })
            }
        }
    }

    /// Rings `doorbell` for every bundle of datagrams. Cancel safe.
    ///
    /// # Errors
    /// When the socket can no longer be read.
    pub async fn forward(&self, doorbell: &Doorbell) -> io::Result<()> {
        let mut datagram = [0; 16];
        loop {
            match &self.socket {
                Socket::Udp(socket) => drop(socket.recv(&mut datagram).await?),
                Socket::Unix(socket) => drop(socket.recv(&mut datagram).await?),
            }
            doorbell.ring();
            sleep(BUNDLE).await;
            let more = |datagram: &mut [u8]| match &self.socket {
                Socket::Udp(socket) => socket.try_recv(datagram).is_ok(),
                Socket::Unix(socket) => socket.try_recv(datagram).is_ok(),
            };
            let bundle = (0..BUNDLE_DATAGRAMS_MAX).take_while(|_| more(&mut datagram)).count();
            if bundle > 0 {
                doorbell.ring();
            }
        }
    }

    /// Listens for good. What is wrong with the address is said once and tried again: meanwhile the relay polls.
    pub(crate) async fn run(address: Address, source: String, doorbell: Doorbell) {
        let mut said = String::new();
        loop {
            let heard = match Self::bind(&address).await {
                Ok(listener) => {
                    tracing::info!(source, %address, "listening for the doorbell");
                    said.clear();
                    listener.forward(&doorbell).await
                }
                Err(error) => Err(error),
            };
            let error = heard.err().map(|error| error.to_string()).unwrap_or_default();
            if error != said {
                tracing::warn!(source, %address, error, "cannot listen for the doorbell; polling goes on");
                said = error;
            }
            sleep(RETRY).await;
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<(UnixDatagram, Bound)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            let what =
                format!("{} is there and is no socket; remove it, or choose another path", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        let probe = std::os::unix::net::UnixDatagram::unbound()?;
        match probe.connect(path) {
            Ok(()) => {
                let what = format!("another process listens at {}", path.display());
                return Err(io::Error::new(io::ErrorKind::AddrInUse, what));
            }
            // Nobody is behind it any more.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(error) => return Err(error),
        }
    }
    let socket = UnixDatagram::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    let made = std::fs::symlink_metadata(path)?;
    Ok((socket, Bound { path: path.to_owned(), id: (made.dev(), made.ino()) }))
}

impl Drop for Bound {
    fn drop(&mut self) {
        use std::os::unix::fs::MetadataExt;

        // Only our own: another relay may have taken the path since.
        let ours =
            std::fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.id);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the doorbell's socket stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    async fn hears(address: Address) {
        let listener = Listener::bind(&address).await.unwrap();
        let (here, far) = (Doorbell::new(), Doorbell::to(address).unwrap());
        for _ in 0..3 {
            far.ring();
            tokio::select! {
                failed = listener.forward(&here) => panic!("{failed:?}"),
                rung = tokio::time::timeout(SOON, here.rung()) => rung.unwrap(),
            }
        }
    }

    #[tokio::test]
    async fn a_ring_of_another_process_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        hears(Address::Unix(folder.path().join("bell"))).await;
        let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        hears(Address::Udp(port)).await;
    }

    #[tokio::test]
    async fn the_file_of_a_dead_relay_is_replaced_and_that_of_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bell");
        let address = Address::Unix(path.clone());
        drop(std::os::unix::net::UnixDatagram::bind(&path).unwrap());
        assert!(path.exists(), "a dead relay leaves its file");
        let living = Listener::bind(&address).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let second = Listener::bind(&address).await.unwrap_err().to_string();
        assert!(second.contains("another process listens"), "{second}");
        drop(living);
        assert!(!path.exists(), "a relay that ends takes its file along");
        std::fs::write(&path, "mine").unwrap();
        let refused = Listener::bind(&address).await.unwrap_err().to_string();
        assert!(refused.contains("is no socket"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}

//! An authority of the test's own, and certificates that it gives to servers.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tokio::process::Command;

/// What a server is started with.
pub(crate) struct Certificate {
    pub(crate) ca: PathBuf,
    pub(crate) own: PathBuf,
    pub(crate) key: PathBuf,
}

pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

fn named(names: &[&str], called: &str) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, called);
    params
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The users of the databases pass through.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = named(&[], "Barid's tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// For a server of this name.
    pub(crate) fn certificate(&self, name: &str) -> Certificate {
        self.made(name, name)
    }

    /// The same for a server that runs as this user, where we may give it files.
    pub(crate) async fn certificate_for(&self, name: &str, user: &str) -> Certificate {
        let made = self.made(name, &format!("{name}-{user}"));
        if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0 {
            let given = Command::new("chown").arg(user).args([&made.own, &made.key]).status().await.unwrap();
            assert!(given.success(), "chown {user}");
        }
        made
    }

    fn made(&self, name: &str, file: &str) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let certificate = named(&[name], name).signed_by(&key, &self.issuer).unwrap();
        let write = |ending: &str, text: String| {
            let path = self.folder.path().join(format!("{file}.{ending}"));
            std::fs::write(&path, text).unwrap();
            path
        };
        let made = Certificate {
            ca: self.folder.path().join("ca.pem"),
            own: write("pem", certificate.pem()),
            key: write("key", key.serialize_pem()),
        };
        private(&made.key);
        made
    }
}

/// A server refuses a key that others can read.
fn private(file: &Path) {
    std::fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
}

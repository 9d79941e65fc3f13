//! Certificates: whom we trust, and who we are.
//!
//! The files are read once when the transport is made, so that a wrong one is an error at once, and again for every
//! connection, so that a certificate that was replaced counts from the next one on.

use std::{fs, io, path::Path};

use lapin::{
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPScheme, AMQPUri, SASLMechanism},
};

use super::Settings;
use crate::transport::TransportError;

/// Refuses files that cannot be used, and lets the certificate say who we are when the URL does not.
pub(super) fn prepare(settings: &Settings, uri: &mut AMQPUri) -> Result<(), TransportError> {
    let files = [
        ("ca_file", &settings.ca_file, "CERTIFICATE"),
        ("client_certificate_file", &settings.client_certificate_file, "CERTIFICATE"),
        ("client_key_file", &settings.client_key_file, "PRIVATE KEY"),
    ];
    for (name, file, holds) in files {
        let Some(file) = file else { continue };
        if uri.scheme == AMQPScheme::AMQP {
            return Err(wrong(name, "the URL begins with amqp://, which is not encrypted", "write amqps://"));
        }
        let cause = match fs::read_to_string(file) {
            Ok(text) if text.contains(&format!("{holds}-----")) => continue,
            Ok(_) => format!("{}: holds no {holds} in PEM", file.display()),
            Err(error) => format!("{}: {error}", file.display()),
        };
        return Err(wrong(name, &cause, "name a readable PEM file"));
    }
    let names_a_user = settings_name_a_user(settings);
    if settings.client_certificate_file.is_some() && !names_a_user && uri.query.auth_mechanism.is_none() {
        uri.query.auth_mechanism = Some(SASLMechanism::External);
    }
    Ok(())
}

/// The parsed address holds `guest` when the URL names nobody.
fn settings_name_a_user(settings: &Settings) -> bool {
    use secrecy::ExposeSecret as _;
    let url = url::Url::parse(settings.url.expose_secret());
    url.is_ok_and(|url| !url.username().is_empty())
}

/// What the next connection uses.
pub(super) fn load(settings: &Settings) -> io::Result<OwnedTLSConfig> {
    let read = |file: &Path| {
        fs::read(file).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
    };
    let identity = match (&settings.client_certificate_file, &settings.client_key_file) {
        (Some(certificate), Some(key)) => {
            Some(OwnedIdentity::PKCS8 { pem: read(certificate)?, key: read(key)? })
        }
        _ => None,
    };
    let cert_chain = match &settings.ca_file {
        Some(file) => Some(String::from_utf8(read(file)?).map_err(io::Error::other)?),
        None => None,
    };
    Ok(OwnedTLSConfig { identity, cert_chain })
}

fn wrong(name: &str, cause: &str, remedy: &str) -> TransportError {
    TransportError::Misconfigured {
        what: format!("RabbitMQ setting {name}"),
        cause: cause.to_owned(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n";

    fn prepared(url: &str, settings: Settings) -> Result<AMQPUri, TransportError> {
        let mut uri: AMQPUri = url.parse().unwrap();
        prepare(&settings, &mut uri).map(|()| uri)
    }

    #[test]
    fn the_certificate_says_who_we_are_unless_the_url_does() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
        fs::write(&certificate, CERTIFICATE).unwrap();
        fs::write(&key, KEY).unwrap();
        for (url, mechanism) in [
            ("amqps://mq/", Some(SASLMechanism::External)),
            ("amqps://shop:s3cret@mq/", None),
            ("amqps://shop:s3cret@mq/?auth_mechanism=external", Some(SASLMechanism::External)),
        ] {
            let settings = Settings {
                client_certificate_file: Some(certificate.clone()),
                client_key_file: Some(key.clone()),
                ..Settings::new(url)
            };
            assert_eq!(prepared(url, settings).unwrap().query.auth_mechanism, mechanism, "{url}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.pem");
        let wrong = folder.path().join("wrong.pem");
        fs::write(&wrong, KEY).unwrap();
        for (url, file, says) in [
            ("amqps://mq/", &missing, "missing.pem"),
            ("amqps://mq/", &wrong, "holds no CERTIFICATE"),
            ("amqp://mq/", &wrong, "amqps://"),
        ] {
            let error = prepared(url, Settings { ca_file: Some(file.clone()), ..Settings::new(url) });
            let text = error.unwrap_err().to_string();
            assert!(text.contains("ca_file") && text.contains(says), "{text}");
        }
    }
}

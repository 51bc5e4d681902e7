//! The certificate of the encrypted listener, read again when its files change.
//!
//! A new pair that cannot be used is logged and the last good one stays: a botched renewal must not take
//! the gateway down.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::expiry;
use crate::config;
use crate::domain::time::UnixTime;

/// How often the files' times are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The pair in force.
#[derive(Debug)]
struct Certificate {
    current: ArcSwap<CertifiedKey>,
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// Speaks TLS 1.2 and 1.3 with clients, offering HTTP/2 and HTTP/1.1.
#[derive(Clone)]
pub struct Acceptor {
    inner: TlsAcceptor,
    certificate: Arc<Certificate>,
    files: config::Tls,
}

impl Acceptor {
    /// Reads the certificate chain and its key.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn new(files: &config::Tls) -> Result<Acceptor, String> {
        let certificate = Arc::new(Certificate { current: ArcSwap::from_pointee(load(files)?) });
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Acceptor { inner: TlsAcceptor::from(Arc::new(config)), certificate, files: files.clone() })
    }

    /// Does the handshake.
    ///
    /// # Errors
    /// The client broke it off, or offered nothing that we speak.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.inner.accept(stream).await
    }

    /// When the certificate in force ends.
    #[must_use]
    pub fn expires(&self) -> Option<UnixTime> {
        self.certificate.current.load().cert.first().and_then(|leaf| expiry::not_after(leaf))
    }

    /// Where it was read from.
    #[must_use]
    pub fn certificate_file(&self) -> &Path {
        &self.files.cert
    }

    /// Takes up changed files until it is dropped.
    pub async fn watch(self) {
        let mut seen = changed_at(&self.files);
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let now = changed_at(&self.files);
            if now != seen {
                seen = now;
                self.reload();
            }
        }
    }

    /// Takes up the files as they are now; keeps the last good pair when they cannot be used.
    pub fn reload(&self) {
        match load(&self.files) {
            Ok(key) => {
                self.certificate.current.store(Arc::new(key));
                tracing::info!(cert = %self.files.cert.display(), "the certificate was read again");
            }
            Err(why) => tracing::error!(%why, "the changed certificate cannot be used; the last one stays"),
        }
    }
}

fn changed_at(files: &config::Tls) -> [Option<SystemTime>; 2] {
    let time = |path: &PathBuf| path.metadata().and_then(|data| data.modified()).ok();
    [time(&files.cert), time(&files.key)]
}

fn load(files: &config::Tls) -> Result<CertifiedKey, String> {
    let unusable = |path: &Path, why: String| format!("{}: {why}", path.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(&files.cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(unusable(&files.cert, "no certificate in it".to_owned()));
    }
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(&files.key, error.to_string()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    // Fails too when the key does not belong to the certificate.
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| unusable(&files.key, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_pair(folder: &Path, name: &str) -> config::Tls {
        let pair = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let files = config::Tls {
            listen: "127.0.0.1:0".parse().unwrap(),
            cert: folder.join("cert.pem"),
            key: folder.join("key.pem"),
        };
        std::fs::write(&files.cert, pair.cert.pem()).unwrap();
        std::fs::write(&files.key, pair.signing_key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn a_renewed_pair_is_taken_up_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let acceptor = Acceptor::new(&write_pair(folder.path(), "one.test")).unwrap();
        let current = || acceptor.certificate.current.load().cert[0].clone();
        let first = current();
        write_pair(folder.path(), "two.test");
        acceptor.reload();
        let second = current();
        assert_ne!(first, second);
        std::fs::write(folder.path().join("cert.pem"), "nonsense").unwrap();
        acceptor.reload();
        assert_eq!(second, current());
    }

    #[test]
    fn an_unusable_pair_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let files = write_pair(folder.path(), "one.test");
        std::fs::write(&files.key, "nonsense").unwrap();
        let why = Acceptor::new(&files).err().unwrap();
        assert!(why.contains("key.pem"), "{why}");
    }
}

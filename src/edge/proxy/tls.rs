//! The certificate of the encrypted listener, read again when its files change.
//!
//! Their content is compared, not their times: a renewal may come within the same second, be restored with its old
//! times, or be a symbolic link that points elsewhere now.
//!
//! A new pair that cannot be used is logged and the last good one stays: a botched renewal must not take
//! the gateway down.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use super::expiry;
use crate::config;
use palisade_core::domain::time::UnixTime;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is compared of the two files: the hashes of what is in them, where they can be read.
type Content = [Option<[u8; 32]>; 2];

/// The pair in force, and the content that was last looked at.
#[derive(Debug)]
struct Certificate {
    current: ArcSwap<CertifiedKey>,
    seen: Mutex<Content>,
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
        // The content first: what changes while it is loaded is a change still to be seen.
        let seen = Mutex::new(content(files));
        let certificate = Arc::new(Certificate { current: ArcSwap::from_pointee(load(files)?), seen });
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
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            self.look();
        }
    }

    /// Takes up the files if their content has changed since the last look; keeps the last good pair when they cannot
    /// be used.
    pub fn look(&self) {
        let now = content(&self.files);
        let before = std::mem::replace(&mut *self.seen(), now);
        if before != now
            && let Err(why) = self.read().map(|pair| self.take(pair))
        {
            tracing::error!(%why, "the changed certificate cannot be used; the last one stays");
        }
    }

    /// Reads the files as they are now, changed or not.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn read(&self) -> Result<Pair, String> {
        let content = content(&self.files);
        Ok(Pair { key: Arc::new(load(&self.files)?), content })
    }

    /// Puts what was read in force.
    pub fn take(&self, pair: Pair) {
        *self.seen() = pair.content;
        self.certificate.current.store(pair.key);
        tracing::info!(cert = %self.files.cert.display(), "the certificate was read again");
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Content> {
        self.certificate.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A certificate and its key that can be used.
pub struct Pair {
    key: Arc<CertifiedKey>,
    content: Content,
}

fn content(files: &config::Tls) -> Content {
    let hash = |path: &Path| {
        let bytes = std::fs::read(path).map(Zeroizing::new).ok()?;
        Some(<[u8; 32]>::from(Sha256::digest(&*bytes)))
    };
    [hash(&files.cert), hash(&files.key)]
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
        acceptor.look();
        assert_eq!(current(), first);
        write_pair(folder.path(), "two.test");
        acceptor.look();
        let second = current();
        assert_ne!(first, second);
        std::fs::write(folder.path().join("cert.pem"), "nonsense").unwrap();
        acceptor.look();
        assert_eq!(second, current());
        assert!(acceptor.read().is_err());
    }

    #[test]
    fn a_pair_with_the_times_of_the_last_one_is_taken_up_too() {
        let folder = tempfile::tempdir().unwrap();
        let files = write_pair(folder.path(), "one.test");
        let then = std::time::SystemTime::now() - Duration::from_secs(3600);
        let set_back = |then| {
            for path in [&files.cert, &files.key] {
                std::fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
            }
        };
        set_back(then);
        let acceptor = Acceptor::new(&files).unwrap();
        let current = || acceptor.certificate.current.load().cert[0].clone();
        let first = current();
        for then in [then, then - Duration::from_secs(60)] {
            write_pair(folder.path(), "two.test");
            set_back(then);
            let before = current();
            acceptor.look();
            assert_ne!(before, current());
        }
        assert_ne!(first, current());
    }

    #[test]
    fn a_pair_that_is_replaced_one_file_after_the_other_is_taken_up_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let files = write_pair(folder.path(), "one.test");
        let acceptor = Acceptor::new(&files).unwrap();
        let current = || acceptor.certificate.current.load().cert[0].clone();
        let first = current();
        let other = tempfile::tempdir().unwrap();
        let next = write_pair(other.path(), "two.test");
        std::fs::copy(&next.cert, &files.cert).unwrap();
        acceptor.look();
        assert_eq!(first, current());
        std::fs::copy(&next.key, &files.key).unwrap();
        acceptor.look();
        assert_ne!(first, current());
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

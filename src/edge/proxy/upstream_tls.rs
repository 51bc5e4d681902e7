//! What TLS to the upstreams of a route goes by: the authorities that vouch for them, the name that they are held against, and
//! the certificate that we show. Each route has its own, and so have its connections: one that was made under another
//! authority, name or certificate is never used for it, and no session of TLS is resumed for it either.

use std::path::Path;
use std::sync::Arc;

use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config;

/// The authorities and the certificate of one route.
pub struct UpstreamTls {
    /// For connections over HTTP/1.1, which are ours.
    pub http1: Arc<ClientConfig>,
    name: Option<String>,
    authorities: Option<Arc<[WrappedX509]>>,
    client: Option<Arc<CertKey>>,
}

impl UpstreamTls {
    /// Reads the files that a route names; `None`: its upstreams are asked in cleartext.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn load(settings: &config::Upstream) -> Result<Option<UpstreamTls>, String> {
        if !settings.origins.iter().any(|origin| origin.tls) {
            return Ok(None);
        }
        let mut roots = RootCertStore::empty();
        let authorities = match &settings.ca {
            Some(path) => Some(load_authorities(path, &mut roots)?),
            None => {
                pingora::tls::load_platform_certs_incl_env_into_store(&mut roots).map_err(|error| {
                    format!("the machine's certificate authorities cannot be read: {error}")
                })?;
                None
            }
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let (mut http1, client) = match &settings.client {
            None => (builder.with_no_client_auth(), None),
            Some(client) => {
                let (chain, key) = load_client(client)?;
                let certificates = chain.iter().map(|certificate| certificate.to_vec()).collect();
                let engine = CertKey::new(certificates, key.secret_der().to_vec());
                let config = builder.with_client_auth_cert(chain, key).map_err(|error| {
                    let (cert, key) = (client.cert.display(), client.key.display());
                    format!("client_cert {cert} with client_key {key}: {error}")
                })?;
                (config, Some(Arc::new(engine)))
            }
        };
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(UpstreamTls { http1: Arc::new(http1), name: settings.tls_name.clone(), authorities, client }))
    }

    /// The name that an upstream is asked for and held against; `host` is its own.
    #[must_use]
    pub fn name<'a>(&'a self, host: &'a str) -> &'a str {
        self.name.as_deref().unwrap_or(host)
    }

    /// Makes the engine's connections to `peer` as ours are.
    pub fn set(&self, peer: &mut HttpPeer) {
        if let Some(name) = &self.name {
            peer.sni.clone_from(name);
        }
        peer.options.ca = self.authorities.clone();
        peer.client_cert_key = self.client.clone();
    }
}

fn load_authorities(path: &Path, roots: &mut RootCertStore) -> Result<Arc<[WrappedX509]>, String> {
    let certificates = certificates(path)?;
    let mut authorities = Vec::with_capacity(certificates.len());
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|error| unusable(path, &error.to_string()))?;
        authorities.push(WrappedX509::new(certificate.to_vec(), parse_x509));
    }
    Ok(authorities.into())
}

fn load_client(
    client: &config::ClientCertificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = certificates(&client.cert)?;
    let key = PrivateKeyDer::from_pem_file(&client.key)
        .map_err(|error| format!("{}: {error}; it must hold a private key in PEM", client.key.display()))?;
    Ok((chain, key))
}

/// The certificates of a file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| unusable(path, &error.to_string()))?;
    // The engine's parser takes only what is a certificate; this check makes sure that it is.
    if let Some(error) = certificates.iter().find_map(|found| X509Certificate::from_der(found).err()) {
        return Err(unusable(path, &error.to_string()));
    }
    match certificates.is_empty() {
        true => Err(unusable(path, "no certificate in it")),
        false => Ok(certificates),
    }
}

fn unusable(path: &Path, why: &str) -> String {
    format!("{}: {why}; it must hold PEM certificates", path.display())
}

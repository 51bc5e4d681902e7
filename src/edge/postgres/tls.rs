//! What TLS to the database goes by: the authorities that may vouch for its name. There is no TLS without verification.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Whether a connection is encrypted. Connections through a unix socket never are: they do not leave the machine.
#[derive(Clone)]
pub enum DatabaseTls {
    /// In cleartext, because the operator says so, or because the address is this machine.
    Off,
    /// Encrypted; the server shows a certificate for the name that it was asked for.
    Verified(Arc<ClientConfig>),
}

impl DatabaseTls {
    /// TLS with verification against the authorities in the PEM file `ca`; without one, against the machine's.
    ///
    /// # Errors
    /// The file cannot be read or holds no certificate, or the machine has no authorities.
    pub fn verified(ca: Option<&Path>) -> Result<DatabaseTls, String> {
        let roots = match ca {
            Some(path) => authorities(path)?,
            None => machine_authorities()?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(DatabaseTls::Verified(Arc::new(config)))
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let at = path.display();
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| {
        format!("the certificate authorities of the database in {at} cannot be read: {error}")
    })?;
    for certificate in certificates {
        let certificate =
            certificate.map_err(|error| format!("{at} is no PEM file of certificates: {error}"))?;
        roots.add(certificate).map_err(|error| format!("a certificate in {at} cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!("{at} holds no certificate"));
    }
    Ok(roots)
}

fn machine_authorities() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!("this machine has no certificate authorities to verify the database with{why}"));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let refusal = |path: &Path| DatabaseTls::verified(Some(path)).err().unwrap();
        assert!(refusal(&path).contains("cannot be read"), "{}", refusal(&path));
        std::fs::write(&path, "nothing").unwrap();
        assert!(refusal(&path).contains("holds no certificate"), "{}", refusal(&path));
        let made = rcgen::generate_simple_self_signed(["db.internal".to_owned()]).unwrap();
        std::fs::write(&path, made.cert.pem()).unwrap();
        assert!(DatabaseTls::verified(Some(&path)).is_ok());
    }
}

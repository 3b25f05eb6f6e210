//! Verifies servers when a repository brings its own certificate authority.
//!
//! Then that authority alone is trusted, as by restic and by Amazon's tools. A server may also show a certificate that was given
//! here itself: one that is a certificate authority's and signs itself, as `openssl req -x509` makes them, is refused by `webpki`
//! for a server although it is the very one that was asked for. It is accepted for its own name and in its own time.

use std::sync::Arc;

use rustls::client::VerifierBuilderError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Pem(#[from] pem::Error),
    #[error("no certificate in PEM form")]
    Empty,
    #[error(transparent)]
    Certificate(#[from] Error),
    #[error(transparent)]
    Verifier(#[from] VerifierBuilderError),
}

/// A client that trusts the certificates in `pem` and those that they sign.
pub fn only(pem: &str) -> Result<ClientConfig, TrustError> {
    let given: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?;
    if given.is_empty() {
        return Err(TrustError::Empty);
    }
    let mut roots = RootCertStore::empty();
    for certificate in &given {
        roots.add(certificate.clone())?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    Ok(client(provider, Arc::new(Given { inner, given }))?)
}

fn client(provider: Arc<CryptoProvider>, verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Verifies as `webpki` does, and knows the certificates that were given.
#[derive(Debug)]
struct Given {
    inner: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

/// True for the refusal of a certificate authority's certificate as a server's. What `webpki` looks at before, the time above all, was
/// right then.
fn is_authority_as_server(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::Other(other)) if other.to_string() == "CaUsedAsEndEntity")
}

impl ServerCertVerifier for Given {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(error) if is_authority_as_server(&error) && self.given.iter().any(|given| given == end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::*;

    /// What `openssl req -x509` makes for the host `minio.example`.
    fn self_signed(authority: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]);
        openssl.args(["-subj", "/CN=minio.example", "-addext", "subjectAltName=DNS:minio.example", "-addext", authority]);
        openssl.arg("-keyout").arg(folder.path().join("key")).arg("-out").arg(folder.path().join("certificate"));
        let output = openssl.output().expect("`openssl` is on PATH");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read_to_string(folder.path().join("certificate")).unwrap()
    }

    fn verify(given: &str, shown: &str, name: &str, after: Duration) -> Result<(), Error> {
        let certificates = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect::<Vec<_>>();
        let given = certificates(given);
        let mut roots = RootCertStore::empty();
        roots.add(given[0].clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let now = UnixTime::since_unix_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + after);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Given { inner, given }.verify_server_cert(&certificates(shown)[0], &[], &name, &[], now).map(drop)
    }

    #[test]
    fn a_server_may_show_the_very_certificate_that_was_given_under_its_name_and_in_its_time() {
        let (soon, late) = (Duration::from_secs(3600), Duration::from_secs(40 * 24 * 3600));
        for authority in ["basicConstraints=critical,CA:TRUE", "basicConstraints=critical,CA:FALSE"] {
            let (own, other) = (self_signed(authority), self_signed(authority));
            verify(&own, &own, "minio.example", soon).unwrap();
            for (shown, name, after) in
                [(&other, "minio.example", soon), (&own, "elsewhere.example", soon), (&own, "minio.example", late)]
            {
                let refused = verify(&own, shown, name, after);
                assert!(matches!(refused, Err(Error::InvalidCertificate(_))), "{authority} {name} {after:?}: {refused:?}");
            }
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused_with_a_reason() {
        assert!(matches!(only("/etc/ssl/own.pem"), Err(TrustError::Empty)));
        assert!(only("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
        only(&self_signed("basicConstraints=critical,CA:TRUE")).unwrap();
    }
}

//! The authorities that sign certificates of upstreams: the system's, or those of one file and no others.

use std::fmt;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// What a `ca-file` holds: at least one certificate that can be trusted.
#[derive(Clone)]
pub struct Authorities(RootCertStore);

/// Why a text is no `ca-file`.
#[derive(Debug)]
pub enum NoAuthorities {
    NotPem(String),
    None,
    /// There are some, and none that is well-formed.
    Unreadable,
}

impl fmt::Display for NoAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPem(problem) => write!(f, "it is not PEM: {problem}"),
            Self::None => write!(f, "there is no certificate in it; it takes PEM, with `-----BEGIN CERTIFICATE-----`"),
            Self::Unreadable => write!(f, "none of its certificates can be read"),
        }
    }
}

impl std::error::Error for NoAuthorities {}

impl Authorities {
    /// The certificates of a PEM text; what else is in it is left out.
    ///
    /// # Errors
    /// There is none, or none that can be read.
    pub fn from_pem(pem: &[u8]) -> Result<Self, NoAuthorities> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates = certificates.map_err(|error| NoAuthorities::NotPem(error.to_string()))?;
        if certificates.is_empty() {
            return Err(NoAuthorities::None);
        }
        let mut roots = RootCertStore::empty();
        match roots.add_parsable_certificates(certificates) {
            (0, _) => Err(NoAuthorities::Unreadable),
            _ => Ok(Self(roots)),
        }
    }

    /// The system's. That there are none shows at the first call.
    pub(super) fn of_the_system() -> Self {
        let mut roots = RootCertStore::empty();
        let (added, refused) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 {
            tracing::error!("this system has no TLS roots: https works only with `ca-file`");
        }
        tracing::debug!(added, refused, "system TLS roots");
        Self(roots)
    }

    pub(super) fn roots(&self) -> RootCertStore {
        self.0.clone()
    }
}

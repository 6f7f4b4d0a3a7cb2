//! The authorities that sign certificates of upstreams: the system's, or those of one file and no others.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The longest file of authorities, in bytes: a whole system's are a quarter of a megabyte.
const MAX_AUTHORITIES: usize = 16 << 20;

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
    /// Of a whole file, from its start.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn read(file: &File) -> Result<Self, String> {
        let mut pem = Vec::new();
        let mut part = vec![0; 1 << 16];
        while pem.len() < MAX_AUTHORITIES {
            match file.read_at(&mut part, pem.len() as u64) {
                Ok(0) => break,
                Ok(read) => pem.extend_from_slice(&part[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Self::from_pem(&pem).map_err(|error| error.to_string())
    }

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
    fn of_the_system() -> Self {
        let mut roots = RootCertStore::empty();
        let (added, refused) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 {
            tracing::error!("this system has no TLS roots: https works only with `ca-file`");
        }
        tracing::debug!(added, refused, "system TLS roots");
        Self(roots)
    }
}

/// Those of a configuration, by their files.
#[derive(Clone, Default)]
pub(super) struct Trusted(BTreeMap<PathBuf, Authorities>);

/// The system's, once some way has needed them.
#[derive(Default)]
pub(super) struct OfTheSystem(Option<Authorities>);

impl Trusted {
    pub(super) fn new(files: BTreeMap<PathBuf, Authorities>) -> Self {
        Self(files)
    }

    /// Whom to trust on a way: nobody where there is no TLS, and none but those of the file where one is named.
    pub(super) fn roots(&self, tls: bool, ca_file: Option<&PathBuf>, system: &mut OfTheSystem) -> RootCertStore {
        match ca_file {
            _ if !tls => RootCertStore::empty(),
            Some(path) => self.0.get(path).map_or_else(RootCertStore::empty, |authorities| authorities.0.clone()),
            None => system.0.get_or_insert_with(Authorities::of_the_system).0.clone(),
        }
    }

    /// Whether a way with this file trusts the same as it does with those others.
    pub(super) fn are(&self, others: &Self, ca_file: Option<&PathBuf>) -> bool {
        ca_file.is_none_or(|path| match (self.0.get(path), others.0.get(path)) {
            (Some(one), Some(other)) => one.0.roots == other.0.roots,
            _ => false,
        })
    }
}

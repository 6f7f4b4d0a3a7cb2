//! What documents go by, one for each way to reach an origin, and kept over a reload where it would be made the same.

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use rustls::RootCertStore;

use super::authorities::{OfTheSystem, Trusted};
use crate::config::Url;

/// How an origin is reached: by TLS, with the authorities to trust instead of the system's, and through which proxy.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Way {
    pub(super) tls: bool,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) proxy: Option<Url>,
}

/// What has been made for each way.
pub(super) struct Ways<T> {
    made: HashMap<Way, Rc<T>>,
    /// By what does not trust the system's.
    trusted: Trusted,
}

impl<T> Ways<T> {
    /// Of `before` stays what trusts the same. The system's roots are read only if something is made that needs them.
    pub(super) fn new<E>(
        wanted: impl Iterator<Item = Way>,
        trusted: Trusted,
        before: Option<&Self>,
        make: impl Fn(&Way, RootCertStore) -> Result<T, E>,
    ) -> Result<Self, E> {
        let mut made = HashMap::new();
        let mut system = OfTheSystem::default();
        for way in wanted {
            if made.contains_key(&way) {
                continue;
            }
            let kept = before.filter(|before| before.trusted.are(&trusted, way.ca_file.as_ref()));
            let one = match kept.and_then(|before| before.get(&way)) {
                Some(kept) => kept.clone(),
                None => Rc::new(make(&way, trusted.roots(way.tls, way.ca_file.as_ref(), &mut system))?),
            };
            made.insert(way, one);
        }
        Ok(Self { made, trusted })
    }

    pub(super) fn get(&self, way: &Way) -> Option<&Rc<T>> {
        self.made.get(way)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<T>> {
        self.made.values()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::super::authorities::Authorities;
    use super::*;

    fn authorities() -> Authorities {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        Authorities::from_pem(certificate.pem().as_bytes()).unwrap()
    }

    #[test]
    fn each_way_is_made_once_and_anew_only_where_it_trusts_others() {
        let (kept, changed) = (PathBuf::from("/kept.pem"), PathBuf::from("/changed.pem"));
        let way = |tls, ca_file: Option<&PathBuf>| Way { tls, ca_file: ca_file.cloned(), proxy: None };
        let wanted = [way(false, None), way(true, Some(&kept)), way(true, Some(&changed)), way(false, None)];
        let made = Cell::new(0);
        let arrange = |trusted: &[(&PathBuf, &Authorities)], before: Option<&Ways<usize>>| {
            let trusted = trusted.iter().map(|(path, authorities)| ((*path).clone(), (*authorities).clone()));
            let make = |way: &Way, roots: RootCertStore| {
                assert_eq!(roots.len(), usize::from(way.tls), "who is trusted");
                made.set(made.get() + 1);
                Ok::<_, Infallible>(made.get())
            };
            let Ok(ways) = Ways::new(wanted.iter().cloned(), Trusted::new(trusted.collect()), before, make);
            ways
        };
        let numbers = |ways: &Ways<usize>| [0, 1, 2].map(|n| **ways.get(&wanted[n]).unwrap());
        let (one, other, another) = (authorities(), authorities(), authorities());
        let first = arrange(&[(&kept, &one), (&changed, &other)], None);
        assert_eq!((numbers(&first), first.iter().count()), ([1, 2, 3], 3));
        let second = arrange(&[(&kept, &one), (&changed, &another)], Some(&first));
        assert_eq!(numbers(&second), [1, 2, 4]);
        assert!(second.get(&way(true, None)).is_none());
    }
}

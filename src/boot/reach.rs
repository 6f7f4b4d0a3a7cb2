//! What the parent reaches after the drop: the cache, name resolution, TLS roots, the ports of its upstreams.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::sys::landlock::Reach;

/// What the C library reads to resolve a name (nsswitch.conf(5), resolv.conf(5), gai.conf(5), host.conf(5)), and to load
/// a module for that.
const RESOLVER: &[&str] = &[
    RESOLV_CONF,
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/networks",
    "/etc/hostname",
    "/etc/ld.so.cache",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/lib64",
];
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where services listen that resolve names for the C library.
const RESOLVER_SOCKETS: &[&str] =
    &["/run/systemd", "/run/nscd", "/var/run/nscd", "/run/avahi-daemon", "/var/lib/sss/pipes"];

/// A resolver is asked by TCP when its answer is long (RFC 7766).
const DNS: u16 = 53;

/// Of this configuration, with the cache directory open.
pub fn of_parent<'a>(config: &Config, store: BorrowedFd<'a>) -> Reach<'a> {
    let mut read = tls_roots();
    read.extend(RESOLVER.iter().map(PathBuf::from));
    let sockets: BTreeSet<PathBuf> = RESOLVER_SOCKETS.iter().map(PathBuf::from).collect();
    Reach {
        store,
        read,
        read_by_name: resolv_conf_directory().into_iter().collect(),
        proc: config.acl.has_units(),
        sockets,
        connect: config.ports().chain([DNS]).collect(),
    }
}

/// When the network changes, `resolv.conf` is replaced by another file: a rule about the file alone would lose it.
fn resolv_conf_directory() -> Option<PathBuf> {
    Some(fs::canonicalize(RESOLV_CONF).ok()?.parent()?.to_owned())
}

/// Where rustls-native-certs looks, and what the links there lead to.
fn tls_roots() -> BTreeSet<PathBuf> {
    let probed = openssl_probe::probe();
    let named = std::env::var_os("SSL_CERT_DIR");
    let named = named.iter().flat_map(std::env::split_paths).filter(|path| path.is_absolute());
    let mut roots = BTreeSet::new();
    for directory in named.chain(probed.cert_dir) {
        roots.extend(links_out_of(&directory));
        roots.insert(directory);
    }
    roots.extend(probed.cert_file);
    roots
}

fn links_out_of(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let links = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
    let targets = links.filter_map(|link| fs::canonicalize(link.path()).ok());
    targets.filter(|target| target.is_file() && !target.starts_with(directory)).collect()
}

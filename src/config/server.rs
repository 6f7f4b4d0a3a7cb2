//! `[server]` and `[cache]`.

use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid};

use super::diagnostic::{Diagnostic, Place, Report, quoted};
use super::names;
use super::resolve::{Resolver, advice, is_number};
use super::table::{Node, Table};
use super::values;
use super::{Cache, SandboxMode, SecretFile, Server, ServiceUser, tokens};
use crate::acl::OVERFLOW_ID;

/// `[server]`, and where its service users were named, for the check against clients.
pub(super) fn server(section: Option<Node<'_>>, resolver: &dyn Resolver, report: &mut Report<'_>) -> Server {
    let table = section.and_then(|node| node.table(report, &names::SERVER));
    let get = |name| table.as_ref().and_then(|table| table.get(name));
    let Sockets { socket, admin_socket } = sockets(table.as_ref(), report);
    let server = Server {
        socket,
        socket_mode: get("socket-mode").and_then(|node| values::mode(&node, report)).unwrap_or(0o666),
        admin_socket,
        admin_group: get("admin-group").and_then(|node| admin_group(&node, resolver, report)),
        parent_user: service_user(get("parent-user"), "keyhatch", resolver, report),
        worker_user: service_user(get("worker-user"), "keyhatch-worker", resolver, report),
        sandbox: match get("sandbox").and_then(|node| node.word(report, names::SANDBOX)) {
            Some("best-effort") => SandboxMode::BestEffort,
            _ => SandboxMode::Strict,
        },
    };
    if let Some(table) = &table {
        check_apart(&server, table, report);
    }
    server
}

/// Where a broker listens.
pub(super) struct Sockets {
    pub(super) socket: PathBuf,
    pub(super) admin_socket: PathBuf,
}

impl Default for Sockets {
    fn default() -> Self {
        Self { socket: "/run/keyhatch/keyhatch.sock".into(), admin_socket: "/run/keyhatch/admin.sock".into() }
    }
}

/// Those of `[server]`, else the default ones.
fn sockets(table: Option<&Table<'_>>, report: &mut Report<'_>) -> Sockets {
    let mut named = |name| table?.get(name)?.parsed(report, values::socket_path);
    let (socket, admin_socket, default) = (named("socket"), named("admin-socket"), Sockets::default());
    Sockets { socket: socket.unwrap_or(default.socket), admin_socket: admin_socket.unwrap_or(default.admin_socket) }
}

/// The sockets must differ, and so must the users.
fn check_apart(server: &Server, table: &Table<'_>, report: &mut Report<'_>) {
    if server.socket == server.admin_socket {
        let place = table.name_place(if table.get("socket").is_some() { "socket" } else { "admin-socket" });
        report.error(Diagnostic::at(place, "`socket` and `admin-socket` are the same path"));
    }
    let (parent, worker) = (&server.parent_user, &server.worker_user);
    let same_ids = parent.ids.zip(worker.ids).is_some_and(|((a, _), (b, _))| a == b);
    if parent.name == worker.name || same_ids {
        let place = table.name_place(if table.get("worker-user").is_some() { "worker-user" } else { "parent-user" });
        report.error(
            Diagnostic::at(place, "`parent-user` and `worker-user` are the same user")
                .help("the wall between them is that they differ: processes of one user can read each other's memory"),
        );
    }
}

fn admin_group(node: &Node<'_>, resolver: &dyn Resolver, report: &mut Report<'_>) -> Option<Gid> {
    let unusable = |report: &mut Report<'_>, why: String| {
        report.problem(&node.place(), format!("`admin-group`: {why}; the admin socket is for root alone"));
        None
    };
    if node.is_integer() {
        let gid = node.integer(report, 0, u32::MAX - 1)?;
        if gid == OVERFLOW_ID {
            return unusable(report, format!("gid {OVERFLOW_ID} is nobody's"));
        }
        return Some(Gid::from_raw(gid));
    }
    let Some(name) = node.as_str() else {
        report.error(node.expected("the name of a group, a gid, or \"\" for none"));
        return None;
    };
    if name.is_empty() {
        return None;
    }
    match resolver.group(name) {
        Ok(Some(gid)) if gid.as_raw() != OVERFLOW_ID => Some(gid),
        Ok(Some(_)) => unusable(report, format!("group {} is nobody's", quoted(name))),
        Ok(None) if is_number(name) => {
            unusable(report, format!("there is no group {}, and a gid is written without quotes: {name}", quoted(name)))
        }
        Ok(None) => unusable(report, format!("there is no group {}", quoted(name))),
        Err(error) => unusable(report, format!("looking up group {}: {error}", quoted(name))),
    }
}

/// A user to drop to: a name, or a uid (whose group is the user's own, else the gid of the same number).
fn service_user(
    node: Option<Node<'_>>,
    default: &str,
    resolver: &dyn Resolver,
    report: &mut Report<'_>,
) -> ServiceUser {
    let mut user = ServiceUser { name: default.to_owned(), ids: None };
    if let Some(node) = node {
        if node.is_integer() {
            let Some(uid) = node.integer(report, 0, u32::MAX - 1) else { return user };
            let group = resolver.primary_group(Uid::from_raw(uid)).ok().flatten();
            user.name = uid.to_string();
            user.ids = Some((Uid::from_raw(uid), group.unwrap_or(Gid::from_raw(uid))));
        } else {
            match node.as_str() {
                Some(name) if !name.is_empty() => user.name = name.to_owned(),
                _ => {
                    report.error(node.expected("the name of a user, or a uid"));
                    return user;
                }
            }
        }
    }
    if user.ids.is_none() {
        // A failed look-up is for whoever starts as root to refuse; without root nobody needs the ids.
        user.ids = resolver.user(&user.name).ok().flatten();
    }
    if let Some((node, title)) = node.zip(unfit(&user)) {
        report.error(node.error(format!("`{}` {title}", node.name)).help("make one with: useradd --system NAME"));
    }
    user
}

/// Why a user cannot be dropped to.
fn unfit(user: &ServiceUser) -> Option<&'static str> {
    let (uid, gid) = user.ids.map_or((None, None), |(uid, gid)| (Some(uid), Some(gid)));
    if user.name == "root" || uid.is_some_and(Uid::is_root) {
        Some("is root: the privileges that are to be dropped")
    } else if gid.is_some_and(|gid| gid.as_raw() == 0) {
        Some("has root's group as its primary group")
    } else if uid.is_some_and(|uid| uid.as_raw() == OVERFLOW_ID) {
        Some("is nobody: a user that others share")
    } else {
        None
    }
}

impl Server {
    /// For a start as root: what to run when a user to drop to is missing.
    pub fn missing_users(&self) -> Option<String> {
        let missing: Vec<String> = [("parent-user", &self.parent_user), ("worker-user", &self.worker_user)]
            .into_iter()
            .filter(|(_, user)| user.ids.is_none())
            .map(|(setting, user)| {
                let (name, advice) = (&user.name, advice(setting, &user.name));
                format!(
                    "there is no user `{name}` ([server] {setting}); {}",
                    advice.replace(": useradd", ":\n    useradd")
                )
            })
            .collect();
        (!missing.is_empty()).then(|| missing.join("\n"))
    }
}

/// `[cache]`.
pub(super) fn cache(section: Option<Node<'_>>, report: &mut Report<'_>) -> Cache {
    let table = section.and_then(|node| node.table(report, &names::CACHE));
    let get = |name| table.as_ref().and_then(|table| table.get(name));
    let directory = get("directory").and_then(|node| {
        let path = node.parsed(report, values::path)?;
        if path == Path::new("/") {
            report.error(node.error("`directory` is the root of the file system"));
        }
        Some(path)
    });
    let keys = get("seal-key").and_then(|node| seal_keys(&node, report));
    Cache {
        directory: directory.unwrap_or_else(|| PathBuf::from("/var/cache/keyhatch")),
        seal_keys: keys.unwrap_or_else(|| vec![SecretFile::File(PathBuf::from("/var/lib/keyhatch/seal.key"))]),
    }
}

/// The first seals, all open.
fn seal_keys(node: &Node<'_>, report: &mut Report<'_>) -> Option<Vec<SecretFile>> {
    let mut found: Vec<(SecretFile, Place)> = Vec::new();
    for item in node.one_or_many(report)? {
        let Some(file) = tokens::secret_file(&item, report) else { continue };
        if let Some((_, first)) = found.iter().find(|(known, _)| *known == file) {
            report.error(item.error("this seal key is listed twice").also(first.clone(), "first here"));
        } else {
            found.push((file, item.place()));
        }
    }
    (!found.is_empty()).then(|| found.into_iter().map(|(file, _)| file).collect())
}

//! `credentials` of a client with `unit` alone, and names that are too long for systemd's protocol.

use std::collections::BTreeMap;

use super::diagnostic::{Place, Report};
use super::keys::Keys;
use super::table::Table;
use crate::acl::{Client, Pattern, Who};
use crate::credential::{LONGEST_NAMES, is_id};
use crate::secret::KeyPath;

/// The table of one client, and where each of its keys stands.
pub(super) struct Credentials {
    pub(super) keys: BTreeMap<String, KeyPath>,
    /// Client, key and place: looked at when all keys are known.
    pub(super) places: Vec<(KeyPath, Place)>,
}

/// `alone`: the client has `unit` and no other condition. `granted` are its patterns.
pub(super) fn read(table: &Table<'_>, alone: bool, granted: &[Pattern], report: &mut Report<'_>) -> Credentials {
    let mut found = Credentials { keys: BTreeMap::new(), places: Vec::new() };
    let Some(node) = table.get("credentials") else { return found };
    if !alone {
        report.error(
            node.error("`credentials` is legal only in a client with `unit` alone")
                .help("LoadCredential= is a matter between systemd and a unit: such a client has no other condition"),
        );
    }
    for entry in node.entries(report) {
        if !is_id(entry.name) {
            let error = super::diagnostic::Diagnostic::at(entry.place.clone(), "this cannot be the id of a credential");
            report.error(error.help(
                "an id has 1 to 255 characters of ASCII, no `/`, `:` or control character, and is not `.` or `..` \
                 (systemd.exec(5))",
            ));
            continue;
        }
        let Some(text) = entry.node.string(report) else { continue };
        match KeyPath::parse(text) {
            Ok(key) if granted.iter().any(|pattern| pattern.matches(&key)) => {
                found.places.push((key.clone(), entry.node.place()));
                found.keys.insert(entry.name.to_owned(), key);
            }
            Ok(_) => report.error(
                entry
                    .node
                    .error("this key is not among the `keys` of the client")
                    .help("`credentials` gives names to keys that `keys` grants, and grants none"),
            ),
            Err(error) => report.error(entry.node.error(error.to_string())),
        }
    }
    found
}

/// What systemd would not even connect for, if the names are as they are written here.
pub(super) fn warn(client: &Client, place: &Place, keys: &Keys, report: &mut Report<'_>) {
    let Who::Ids { units: Some(units), .. } = &client.who else { return };
    if !client.is_for_credentials() {
        return;
    }
    // A star may be nothing: what is left is the shortest name that there can be.
    let length = |pattern: &dyn std::fmt::Display| pattern.to_string().chars().filter(|c| *c != '*').count();
    let Some((unit, of_unit)) = units.iter().map(|unit| (unit, length(unit))).max_by_key(|(_, length)| *length) else {
        return;
    };
    let by_dots = keys.granted_by(&client.keys).map(|key| key.as_str()[1..].replace('/', "."));
    let unnamed = by_dots.filter(|id| is_id(id) && KeyPath::parse(&format!("/{}", id.replace('.', "/"))).is_ok());
    let ids = client.credentials.keys().cloned().chain(unnamed);
    let long: Vec<String> = ids.filter(|id| of_unit + id.len() > LONGEST_NAMES).collect();
    if let Some(id) = long.first() {
        let others = if long.len() > 1 { format!(" (and {} more)", long.len() - 1) } else { String::new() };
        report.warning(
            place,
            format!(
                "client `{}`: systemd cannot ask for the credential `{id}`{others}: the unit `{unit}` and the id have \
                 {} bytes together, and an address has room for {LONGEST_NAMES}. Give the key a shorter id in \
                 `credentials`",
                client.name,
                of_unit + id.len()
            ),
        );
    }
}

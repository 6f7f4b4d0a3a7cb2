//! What confines a role, read back from the kernel after the drop.

use super::Ids;
use crate::ipc::wire::Layer;
use crate::sys::{creds, process};

pub(super) fn layer(name: &str, holds: bool, level: String) -> Layer {
    Layer { name: name.to_owned(), level, holds }
}

/// The layers of the role that asks; `ids` are those that it was to drop to.
pub(super) fn of_this_role(ids: Option<Ids>) -> Vec<Layer> {
    let users = match ids {
        Some((uid, gid)) => layer("user", creds::only_ids() == ids, format!("uid {uid}, gid {gid}, no groups")),
        None => layer("user", false, format!("uid {}, the same for both roles", creds::own_uid())),
    };
    let (own, bounding) = (creds::has_no_capability(false), creds::has_no_capability(true));
    let capabilities = match (own, bounding) {
        (true, true) => "none, and none to be had",
        (true, false) => "none; the bounding set stays, which CAP_SETPCAP could empty",
        _ => "some are left",
    };
    let no_new = process::has_no_new_privileges().unwrap_or(false);
    let closed = process::is_closed_to_debuggers().unwrap_or(false);
    vec![
        users,
        layer("capabilities", bounding, capabilities.into()),
        layer("no-new-privs", no_new, if no_new { "set" } else { "not set" }.into()),
        layer("no-dump", closed, if closed { "no core, no debugger of the same user" } else { "dumpable" }.into()),
    ]
}

/// The layers of the runner, which stays who it is; `root`: the one who becomes the users of programs.
pub(super) fn of_runner(root: bool) -> Vec<Layer> {
    let mut layers = of_this_role(None);
    if root {
        layers[0].level = "root, which alone can become the users of programs".to_owned();
        let (only, empty) = (creds::has_only_changing_ids(), creds::bounding_is_empty());
        let level = match (only, empty) {
            (true, true) => "CAP_SETUID and CAP_SETGID, none for programs",
            (true, false) => "CAP_SETUID and CAP_SETGID; the bounding set stays, which CAP_SETPCAP could empty",
            _ => "more than CAP_SETUID and CAP_SETGID",
        };
        layers[1] = layer("capabilities", only && empty, level.into());
    }
    layers
}

/// One line for whoever reads the log at start: what does not hold here. `None` when all does.
pub(super) fn missing(layers: &[Layer]) -> Option<String> {
    let missing: Vec<String> =
        layers.iter().filter(|layer| !layer.holds).map(|layer| format!("{} ({})", layer.name, layer.level)).collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

//! `[limits]`.

use super::diagnostic::Report;
use super::table::Node;
use super::{Limits, names, values};

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;

/// hyper refuses a read buffer below this.
const LEAST_HEADER_SIZE: u64 = 8 * KIB;

pub(super) fn limits(section: Option<Node<'_>>, report: &mut Report<'_>) -> Limits {
    let mut limits = Limits::default();
    let Some(table) = section.and_then(|node| node.table(report, &names::LIMITS)) else { return limits };
    let get = |name| table.get(name);

    let count = |report: &mut Report<'_>, name, most: u32, default: u32| {
        get(name).and_then(|node| node.integer(report, 1, most)).unwrap_or(default)
    };
    limits.connections = count(report, "connections", 1_000_000, limits.connections);
    let per_user = limits.connections_per_user.min(limits.connections);
    limits.connections_per_user = count(report, "connections-per-user", 1_000_000, per_user);
    limits.fetches_per_user = count(report, "fetches-per-user", 1_000_000, limits.fetches_per_user);

    let size = |report: &mut Report<'_>, name, least, most, default| {
        get(name).and_then(|node| values::size(&node, report, least, most)).unwrap_or(default)
    };
    limits.value_size = size(report, "value-size", KIB, GIB, limits.value_size);
    let document = limits.document_size.max(limits.value_size);
    limits.document_size = size(report, "document-size", KIB, GIB, document);
    let memory = limits.memory.max(limits.value_size);
    limits.memory = size(report, "memory", KIB, 1024 * GIB, memory);
    limits.header_size = size(report, "header-size", LEAST_HEADER_SIZE, 1024 * KIB, limits.header_size);

    let wait = |report: &mut Report<'_>, name, default| {
        get(name).and_then(|node| values::positive_duration(&node, report)).unwrap_or(default)
    };
    limits.header_timeout = wait(report, "header-timeout", limits.header_timeout);
    limits.idle_timeout = wait(report, "idle-timeout", limits.idle_timeout);

    // A default follows the setting that it belongs to; only what was written can contradict.
    let mut contradiction = |name, wrong: bool, why: &str| {
        if let Some(node) = get(name).filter(|_| wrong) {
            report.error(node.error(format!("`{name}` {why}")));
        }
    };
    let more = limits.connections_per_user > limits.connections;
    contradiction("connections-per-user", more, "is more than `connections`, the limit of all users together");
    let smaller = limits.document_size < limits.value_size;
    contradiction("document-size", smaller, "is less than `value-size`: a value is a part of a document");
    contradiction(
        "memory",
        limits.memory < limits.value_size,
        "is less than `value-size`: such a value would never fit",
    );
    limits
}

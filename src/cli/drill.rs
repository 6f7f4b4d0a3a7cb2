//! `keyhatch drill`: stays as long as the drill, and prints who was served what.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::args::Drill;
use super::operate::told;
use super::table::{Table, duration, or_dash};
use super::{show, show_json, tell};
use crate::client::http;
use crate::exit::Exit;
use crate::shown;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Begun {
    covers: String,
    keys: u64,
    fail: String,
    ends_in: u64,
}

#[derive(Deserialize)]
struct Report {
    covers: String,
    over: String,
    seconds: u64,
    served: Vec<Line>,
    others: u64,
}

#[derive(Deserialize)]
struct Line {
    client: String,
    uid: u32,
    key: String,
    fresh: u64,
    stale: u64,
    oldest: Option<u64>,
    failures: BTreeMap<u16, u64>,
}

pub(super) fn run(asked: &Drill, socket: &Path) -> Exit {
    let mut body = serde_json::json!({ "fail": asked.fail.name(), "for": asked.length.as_secs() });
    for (name, of) in [("key", &asked.key), ("token", &asked.token), ("origin", &asked.origin)] {
        if let Some(of) = of {
            body[name] = of.as_str().into();
        }
    }
    let mut report = None;
    let answer = http::follow(socket, "/drill", &body, |line| {
        if let Ok(Begun { covers, keys, fail, ends_in }) = serde_json::from_str(line) {
            let keys = shown::counted(keys, "key");
            let (length, covers, fail) = (duration(ends_in), shown::part(&covers), shown::part(&fail));
            tell(&format_args!("the drill is on for {length}: {covers} ({keys}) fails with {fail}; Ctrl-C ends it"));
        } else {
            report = Some(line.to_owned());
        }
    });
    if let Err(exit) = told(answer, socket) {
        return exit;
    }
    let Some(report) = report else {
        tell(&"the broker has ended, and the drill with it");
        return Exit::Unavailable;
    };
    if asked.json {
        return show_json(&report);
    }
    match serde_json::from_str(&report) {
        Ok(report) => show(table(&report).trim_end()),
        Err(error) => {
            tell(&format_args!("the report cannot be read: {error}"));
            Exit::Other
        }
    }
}

fn table(report: &Report) -> String {
    let mut table = Table::new(&["CLIENT", "UID", "KEY", "FRESH", "STALE", "OLDEST", "FAILED"], &[1, 3, 4, 5]);
    for line in &report.served {
        let failures: Vec<String> =
            line.failures.iter().map(|(status, count)| format!("{count} with {status}")).collect();
        table.row([
            line.client.clone(),
            line.uid.to_string(),
            line.key.clone(),
            line.fresh.to_string(),
            line.stale.to_string(),
            or_dash(line.oldest.map(duration)),
            failures.join(", "),
        ]);
    }
    let why = match report.over.as_str() {
        "time" => "its time was over",
        "reload" => "the configuration was reloaded",
        _ => "it was ended",
    };
    let mut text = format!("The drill of {} took {}; {why}.\n", shown::part(&report.covers), duration(report.seconds));
    if report.served.is_empty() {
        text.push_str("Nobody asked for a key that it covers.\n");
    } else {
        text.push_str(&table.text());
    }
    if report.others > 0 {
        text.push_str(&format!("and {} answers that have no line here\n", report.others));
    }
    text
}

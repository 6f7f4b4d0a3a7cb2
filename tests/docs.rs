//! What the documents say, against the program: examples, settings, commands, exit codes, messages, links, named tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "docs/markdown.rs"]
mod markdown;
mod support;

use std::collections::BTreeSet;
use std::process::Command;

use common::{Names, sources};
use keyhatch::config::{Config, parse};
use keyhatch::staleness::Settings;
use markdown::{Document, documents, read, root, spans};
use support::{Broker, Upstream};

fn document(path: &str) -> Document {
    documents().into_iter().find(|document| document.name() == path).unwrap()
}

fn config(text: &str, of: &str) -> Config {
    parse(sources(text), &Names).unwrap_or_else(|error| panic!("{of}:\n{text}\n{error}"))
}

fn all(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The string literals in a part of a source file.
fn literals(text: &str) -> BTreeSet<&str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split('"').skip(1).step_by(2)).collect()
}

/// From a line that holds `begin` to the next one that is `end`.
fn part<'t>(text: &'t str, begin: &str, end: &str) -> &'t str {
    let rest = &text[text.find(begin).unwrap_or_else(|| panic!("{begin} is not there"))..];
    &rest[..rest.find(end).unwrap()]
}

#[test]
fn every_configuration_shown_is_legal() {
    let mut examples = 0;
    for document in documents() {
        for block in document.blocks("toml") {
            config(&block, &document.name());
            examples += 1;
        }
    }
    assert!(examples > 10, "{examples} examples found");
}

#[test]
fn the_defaults_shown_are_the_defaults() {
    let blocks = document("docs/configuration.md").blocks("toml");
    let shown = |section: &str| blocks.iter().find(|block| block.starts_with(&format!("[{section}]\n"))).unwrap();
    let nothing = config("", "nothing");
    assert_eq!(format!("{:?}", config(shown("server"), "server").server), format!("{:?}", nothing.server));
    assert_eq!(format!("{:?}", config(shown("cache"), "cache").cache), format!("{:?}", nothing.cache));
    assert_eq!(config(shown("limits"), "limits").limits, nothing.limits);
    let key = "[keys.\"/a\"]\nsource = { type = \"file\", path = \"/a\" }\n";
    let with_defaults = config(&format!("{}{key}", shown("defaults")), "defaults");
    assert_eq!(with_defaults.keys[0].settings, Settings::default());
    // All of them are shown.
    let names = read("src/config/names.rs");
    for (section, list) in [("server", "SERVER"), ("cache", "CACHE"), ("limits", "LIMITS"), ("defaults", "SETTINGS")] {
        let list = &names[names.find(&format!("const {list}: Names")).unwrap()..];
        for name in literals(part(list, "&[", "]")) {
            let is_set = |line: &str| line.split('=').next().unwrap().trim() == name;
            assert!(shown(section).lines().any(is_set), "`{name}` is not in the example of [{section}]");
        }
    }
}

/// Settings stand in the first cell of a row, in a heading, or in the table of `auth`; words anywhere in a table.
#[test]
fn the_settings_are_those_of_the_program() {
    let source = read("src/config/names.rs");
    let source = source.split("#[cfg(test)]").next().unwrap();
    let (settings, words) = source.split_once("pub(super) const SOURCE_TYPES").unwrap();
    let named = |text| literals(text).into_iter().filter(|name| !name.contains([' ', '`', '['])).collect();
    let (settings, words): (BTreeSet<&str>, BTreeSet<&str>) = (named(settings), named(words));
    assert!(
        settings.contains("max-age") && settings.len() > 50 && words.contains("best-effort"),
        "{settings:?} {words:?}"
    );

    let document = document("docs/configuration.md");
    let prose = document.prose();
    let rows = || prose.iter().filter(|(_, line)| line.starts_with(['|', '#']));
    let first = |line: &'_ str| line.find(" |").map_or(line.len(), |end| end + 1);
    let (mut firsts, mut described, mut shown) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for (number, line) in rows() {
        let of_auth = line.starts_with("| `\"");
        firsts.extend(spans(&line[..first(line)]).map(|name| (number, name.trim_matches('"'))));
        described.extend(spans(if of_auth { line } else { &line[..first(line)] }));
        shown.extend(spans(line).map(|word| word.trim_matches('"')));
    }
    let told = ["source", "sources", "params", "max-entries", "eviction", "unit", "credentials"];
    let told = |name: &str| told.contains(&name) && document.text.contains(&format!("`{name}`"));
    let lacking =
        settings.iter().filter(|name| !described.contains(**name) && !described.contains(&*format!("[{name}]")));
    let mut wrong: Vec<String> =
        lacking.filter(|name| !told(name)).map(|name| format!("no row for `{name}`")).collect();
    wrong.extend(words.iter().filter(|word| !shown.contains(**word)).map(|word| format!("no table says {word}")));
    let unknown = firsts.iter().filter(|(_, name)| {
        let name = name.trim_matches(['[', ']']);
        !settings.contains(name) && !words.contains(name)
    });
    wrong.extend(unknown.map(|(number, name)| format!("{}:{number}: there is no `{name}`", document.name())));
    all(wrong);
}

#[test]
fn links_lead_somewhere() {
    let documents = documents();
    let mut broken = Vec::new();
    for document in &documents {
        for (number, link) in document.links() {
            if link.starts_with("https://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                root().join(&document.path)
            } else {
                root().join(&document.path).parent().unwrap().join(path)
            };
            let leads = target.canonicalize().is_ok_and(|target| {
                let of_target = |other: &&Document| root().join(&other.path).canonicalize().unwrap() == target;
                let anchors = documents.iter().find(of_target).map(Document::anchors).unwrap_or_default();
                anchor.is_empty() || anchors.iter().any(|one| one == anchor)
            });
            if !leads {
                broken.push(format!("{}:{number}: {link}", document.name()));
            }
        }
    }
    all(broken);
}

fn help(arguments: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_keyhatch")).args(arguments).arg("--help").output().unwrap();
    String::from_utf8(done.stdout).unwrap()
}

/// The commands that a help lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// In words that are options.
fn options(help: &str) -> BTreeSet<&str> {
    let words = help.split_whitespace().filter(|word| word.starts_with("--"));
    words
        .map(|word| word.split([',', '.', ':', '[', ']', ')', '=']).next().unwrap())
        .filter(|word| word.len() > 2)
        .collect()
}

#[test]
fn every_command_and_option_is_named_and_no_other() {
    let documents = documents();
    let text: String = documents.iter().map(|document| document.text.as_str()).collect();
    let mut lacking = Vec::new();
    let top = commands(&help(&[]));
    assert!(top.len() > 6, "{top:?}");
    for command in &top {
        let below = commands(&help(&[command]));
        let named: Vec<String> = below.iter().map(|below| format!("{command} {below}")).collect();
        for name in if named.is_empty() { vec![command.clone()] } else { named } {
            if !text.contains(&format!("`keyhatch {name}")) {
                lacking.push(format!("`keyhatch {name}` is named nowhere"));
            }
            let arguments: Vec<&str> = name.split(' ').collect();
            let help = help(&arguments);
            let unnamed = options(&help).into_iter().filter(|option| !text.contains(option));
            let usual = ["--help", "--version"];
            lacking.extend(unnamed.filter(|o| !usual.contains(o)).map(|option| format!("{name}: {option}")));
        }
    }
    for document in &documents {
        for (number, span) in document.spans() {
            let Some(command) = span.strip_prefix("keyhatch ").and_then(|rest| rest.split_whitespace().next()) else {
                continue;
            };
            let known = top.iter().any(|one| one == command) || ["help", "worker"].contains(&command);
            let line = document.text.lines().nth(number - 1).unwrap();
            if !known && !line.contains("not there yet") {
                lacking.push(format!("{}:{number}: there is no `keyhatch {command}`", document.name()));
            }
        }
    }
    all(lacking);
}

#[test]
fn every_exit_code_is_listed() {
    let exits = read("src/exit.rs");
    let variants = part(&exits, "pub enum Exit {", "\n}").lines();
    let codes: BTreeSet<u8> =
        variants.filter_map(|line| line.split_once(" = ")?.1.strip_suffix(',')?.parse().ok()).collect();
    assert!(codes.len() > 6, "{codes:?}");
    let help = help(&[]);
    let told =
        part(&help, "Exit codes:", "else").split([' ', '\n', ',']).filter_map(|word| word.parse().ok()).collect();
    assert_eq!(codes, told, "--help");
    let readme = document("README.md");
    let rows =
        readme.prose().into_iter().filter_map(|(_, line)| line.strip_prefix("| ")?.split(' ').next()?.parse().ok());
    assert_eq!(codes, rows.collect(), "README.md");
}

/// Each `detail` of `Cache-Status`, and no message of an error that the worker does not have.
#[test]
fn what_answers_say_is_what_the_worker_says() {
    let (http, upstreams) = (document("docs/http.md"), document("docs/upstreams.md"));
    let (outcome, wire) = (read("src/outcome.rs"), read("src/ipc/wire.rs"));
    let details =
        [literals(part(&outcome, "pub fn detail(", "\n    }")), literals(part(&wire, "pub fn token(", "\n    }"))];
    let details: Vec<&str> = details.into_iter().flatten().collect();
    assert!(details.len() > 20, "{details:?}");
    let described = |detail: &&&str| {
        http.text.contains(&format!("detail={detail}")) || upstreams.text.contains(&format!("`{detail}`"))
    };
    let lacking = details.iter().filter(|detail| !described(detail));
    let mut wrong: Vec<String> = lacking.map(|detail| format!("detail={detail} is described nowhere")).collect();

    let files = ["worker/answer", "worker/call", "worker/service", "worker/wait", "arguments/canonical"];
    let worker = files.map(|file| read(&format!("src/{file}.rs"))).concat();
    let shown = http.text.split("\"detail\":\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let mut messages = BTreeSet::new();
    for message in shown {
        messages.insert(message.to_owned());
        let fixed = message.split(" (").next().unwrap();
        if !worker.contains(&format!("\"{fixed}\"")) {
            wrong.push(format!("no error says: {message}"));
        }
    }
    assert!(messages.len() > 12, "{messages:?}");
    for code in ["denied", "unavailable", "refused", "gone", "misconfigured", "over-budget", "malformed"] {
        assert!(http.text.contains(&format!("\"code\":\"{code}\"")), "no example of {code}");
    }
    all(wrong);
}

/// `file::function` or `file::module::function` below `tests`, `module::tests::function` below `src`, and paths.
#[test]
fn named_tests_and_files_are_there() {
    let mut wrong = Vec::new();
    let mut tests = 0;
    for document in documents() {
        for (number, span) in document.spans() {
            let at = format!("{}:{number}: {span}", document.name());
            if ["src/", "tests/", "docs/"].iter().any(|folder| span.starts_with(folder)) {
                if !root().join(span).exists() {
                    wrong.push(at);
                }
                continue;
            }
            let Some((module, function)) = span.rsplit_once("::") else { continue };
            let file = match module.strip_suffix("::tests") {
                Some(module) => {
                    let module = format!("src/{}", module.replace("::", "/"));
                    let apart = format!("{module}/tests.rs");
                    if root().join(&apart).exists() { apart } else { format!("{module}.rs") }
                }
                None => format!("tests/{}.rs", module.replace("::", "/")),
            };
            if root().join(&file).exists() && function.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                tests += 1;
                if !read(&file).contains(&format!("fn {function}(")) {
                    wrong.push(at);
                }
            } else if function.contains('_') {
                wrong.push(at);
            }
        }
    }
    assert!(tests > 30, "{tests} tests named");
    all(wrong);
}

/// Every module of the layering is in the table of the architecture.
#[test]
fn the_architecture_names_every_module() {
    let layering = read("tests/layering.rs");
    let modules = part(&layering, "const USES", "\n];").lines();
    let name = |line: &str| line.trim().strip_prefix('(').unwrap_or(line.trim()).split('"').nth(1).map(str::to_owned);
    let modules: Vec<String> = modules
        .filter(|line| line.starts_with("    (\"") || line.starts_with("        \"") && line.ends_with("\","))
        .filter_map(name)
        .filter(|name| root().join(format!("src/{name}.rs")).exists() || root().join(format!("src/{name}")).is_dir())
        .collect();
    assert!(modules.len() > 12, "{modules:?}");
    let text = document("docs/architecture.md").text;
    let lacking = modules.iter().filter(|module| !text.contains(&format!("\n| `{module}` |")));
    all(lacking.map(|module| format!("no row for `{module}`")).collect());
}

/// Both directions of the channel, message by message.
#[test]
fn the_architecture_names_every_frame() {
    let wire = read("src/ipc/wire.rs");
    let text = document("docs/architecture.md").text;
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let mut lacking = Vec::new();
    for side in ["ToParent", "ToWorker"] {
        let variants = part(&wire, &format!("pub enum {side} {{"), "\n}").lines().skip(1);
        let named =
            variants.filter_map(|line| line.strip_prefix("    ")).filter(|line| line.starts_with(char::is_uppercase));
        for name in named.map(|line| line.split([' ', '(', ',']).next().unwrap()) {
            // A row may name several.
            if !rows.iter().any(|row| row.contains(&format!("`{name} {{")) || row.contains(&format!("`{name}`"))) {
                lacking.push(format!("no row for `{name}`"));
            }
        }
    }
    all(lacking);
}

/// Levels depend on the kernel; which layers there are does not, nor do the lists of calls on one kind of machine.
#[test]
#[ignore = "needs root: drops to two uids"]
fn the_layers_shown_are_those_of_the_program() {
    let upstream = Upstream::start(0);
    let broker = Broker::new(upstream.port, "");
    let mut status = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
    let done = status.arg("status").arg("--admin-socket").arg(broker.path("admin.sock")).output().unwrap();
    let told = String::from_utf8(done.stdout).unwrap();
    let layers = |text: &str| {
        let rows = text.lines().skip_while(|line| !line.starts_with("ROLE ")).skip(1).take_while(|l| l.contains("  "));
        let shown = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let whole = words[1] == "seccomp" && cfg!(target_arch = "x86_64");
            words[..if whole { words.len() } else { 2 }].join(" ")
        };
        rows.map(shown).collect::<Vec<_>>()
    };
    let told = layers(&told);
    assert!(told.len() > 10, "{told:?}");
    assert_eq!(layers(&document("docs/privsep.md").text), told);
}

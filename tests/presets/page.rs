//! The page of documentation that a preset's own file makes.

use std::fmt::Write;

use keyhatch::config::{Description, ParameterDescription};

const NOTE: &str =
    "<!-- Made of the preset's own file, and compared with it by tests/presets.rs: change that file. -->\n";

const STAND_IN: &str = r#"
## Try one against a stand-in

Each has a parameter that says where its upstream is: `base-url`, `address` or `endpoint`. That can be a program of your own on this machine, which gives what the upstream would. A token is sent
over plain http only where the source says `allow-plaintext = true`, so a key that you try has both. In an empty directory, as a user that is not root:

```sh
mkdir -p upstream/apps/billing-prod
echo '{"DATABASE_URL":"postgres://stand-in"}' > upstream/apps/billing-prod/config-vars
python3 -m http.server --bind 127.0.0.1 --directory upstream 8080 > requests 2>&1 &
upstream=$!
echo anything > token
chmod 600 token
cat > keyhatch.toml <<END
[server]
socket       = "$PWD/keyhatch.sock"
admin-socket = "$PWD/admin.sock"

[cache]
directory = "$PWD/cache"
seal-key  = { file = "$PWD/seal.key" }

[tokens]
heroku = { file = "$PWD/token" }

[keys."/heroku/example"]
source = { type = "heroku", app = "billing-prod", config-var = "DATABASE_URL", token = "heroku", base-url = "http://127.0.0.1:8080", allow-plaintext = true }

[clients.me]
user = $(id -u)
keys = ["/heroku/*"]
END
export KEYHATCH_CONFIG=keyhatch.toml
keyhatch serve 2> log &
broker=$!
keyhatch get /heroku/example --wait 10s; echo
kill $upstream; wait $upstream
keyhatch get /heroku/example; echo
kill $broker
```

This prints `postgres://stand-in` twice, and says the second time, when the upstream is gone, that it is stale.
"#;

fn meaning(one: &ParameterDescription) -> String {
    let words: Vec<String> = one.one_of.iter().map(|word| format!("`{word}`")).collect();
    if words.is_empty() { one.doc.clone() } else { format!("{}: {}", one.doc, words.join(", ")) }
}

fn default(preset: &Description, one: &ParameterDescription) -> String {
    match (&one.default, one.required) {
        (Some(default), _) => format!("`{default}`"),
        (None, true) => "required".to_owned(),
        (None, false) if preset.ways.iter().any(|way| way.contains(&format!("`{}`", one.name))) => {
            "see below".to_owned()
        }
        (None, false) => "none".to_owned(),
    }
}

pub(crate) fn of(preset: &Description) -> String {
    let mut page = format!("# {}\n\n{NOTE}\n{}\n", preset.title, preset.about);
    if let Some(link) = &preset.link {
        writeln!(page, "\nThe upstream's own page: <{link}>.").unwrap();
    }
    writeln!(page, "\n```toml\n{}```\n", preset.example).unwrap();
    writeln!(page, "| parameter | type | default | meaning |\n|---|---|---|---|").unwrap();
    for one in &preset.parameters {
        let keys = if one.takes_parameters_of_keys { " ¹" } else { "" };
        let (default, meaning) = (default(preset, one), meaning(one));
        writeln!(page, "| `{}`{keys} | {} | {default} | {meaning} |", one.name, one.kind).unwrap();
    }
    if preset.parameters.iter().any(|one| one.takes_parameters_of_keys) {
        let link = "[key's parameters](../configuration.md#keys-with-parameters)";
        writeln!(page, "\n¹ A {link} may stand in it.").unwrap();
    }
    if !preset.ways.is_empty() {
        writeln!(page, "\nA key gives one way to authenticate: {}.", preset.ways.join("; or ")).unwrap();
    }
    writeln!(page, "\nBeside these, `ca-file`, `proxy` and `allow-plaintext`, as for [`http`](../configuration.md#type--http). The request is:").unwrap();
    writeln!(page, "\n    {}", preset.request).unwrap();
    let link = "[what others are](../upstreams.md#outcomes)";
    if preset.outcomes.is_empty() {
        writeln!(page, "\nIts answers are taken for {link}.").unwrap();
        return page;
    }
    writeln!(page, "\nThese answers are taken for something else than {link}; the first that holds counts.").unwrap();
    writeln!(page, "\n| answer | taken for |\n|---|---|").unwrap();
    for one in &preset.outcomes {
        writeln!(page, "| `{}` | {} |", one.answer.replace('|', "\\|"), one.class).unwrap();
    }
    page
}

pub(crate) fn index(presets: &[Description]) -> String {
    let mut page = format!(
        "# Presets\n\n{NOTE}\nA preset is an upstream that a source can name, instead of a whole request. `keyhatch presets` lists them, `keyhatch presets show`\n\
         tells what one takes; [configuration.md](../configuration.md#presets) tells how to write your own.\n\n| `type` | |\n|---|---|\n"
    );
    for preset in presets {
        writeln!(page, "| [`\"{0}\"`]({0}.md) | {1} |", preset.name, preset.title).unwrap();
    }
    page.push_str(STAND_IN);
    page
}

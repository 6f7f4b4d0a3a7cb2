//! A real cachish 1.7 from its registry, and the broker that its configuration becomes, at one upstream.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::parameters::status;
use crate::support::process::Process;
use crate::support::{Broker, GRANTED, STRANGER, TOKEN};

struct Cachish {
    child: Child,
    port: u16,
}

impl Cachish {
    fn start(config: &Path, upstream: &str) -> Self {
        let target = Path::new(env!("CARGO_BIN_EXE_keyhatch")).parent().unwrap().parent().unwrap();
        let python = target.join("tools/cachish/bin/python");
        assert!(python.exists(), "{} is missing: tests/run makes it", python.display());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import/real_cachish.py");
        let mut start = Command::new(python);
        start.arg(script).arg(config).arg(upstream).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = start.spawn().unwrap();
        let mut line = String::new();
        // What it logs comes there too, before and after.
        let mut out = BufReader::new(child.stdout.take().unwrap());
        while line.trim().parse::<u16>().is_err() {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "cachish did not start");
        }
        let port = line.trim().parse().unwrap();
        // A pipe that nobody reads would stop it in the end.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        Self { child, port }
    }

    fn ask(&self, token: &str, path: &str) -> String {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include", "--max-time", "20", "--header", &format!("Authorization: Bearer {token}")]);
        let done = curl.arg(format!("http://127.0.0.1:{}{path}", self.port)).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for Cachish {
    fn drop(&mut self) {
        // It is of no use any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn body(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[test]
#[ignore = "needs root: drops to two uids and asks as others"]
fn every_item_is_the_same_json_as_from_cachish() {
    let mut up = None;
    let mut cache = None;
    let mut broker = Broker::prepared(|directory| {
        let upstream = Process::start(directory);
        let at = format!("http://127.0.0.1:{}", upstream.port("plain"));
        let service = at.replace("http://", &format!("http://service:{TOKEN}@"));
        std::fs::create_dir(directory.join("cachish")).unwrap();
        let yaml = format!(
            "items:\n  \
             /heroku/one: {{module: Heroku, parameters: {{app: a, api_token: {TOKEN}, config_key: DATABASE_URL}}}}\n  \
             /heroku/deep/both: {{module: Heroku, parameters: {{app: a, api_token: {TOKEN}, config_key: [OTHER, DATABASE_URL]}}}}\n  \
             /heroku: {{module: JsonHttp, parameters: {{url: \"{at}/good\"}}}}\n  \
             /field: {{module: JsonHttp, parameters: {{url: \"{at}/good\", field: value}}}}\n  \
             /open: {{module: JsonHttp, disable_auth: true, parameters: {{url: \"{at}/redirect/2\", field: [other]}}}}\n  \
             /basic: {{module: JsonHttp, parameters: {{url: \"{service}/basic\"}}}}\n  \
             /hawk: {{module: Hawk, parameters: {{secret_id: acme, secret: {TOKEN}, url: \"{at}/hawk?a=1\", field: value}}}}\n  \
             /hawk-1: {{module: Hawk, parameters: {{secret_id: acme, secret: {TOKEN}, algorithm: sha1, url: \"{at}/hawk?algorithm=sha1\"}}}}\n  \
             /null: {{module: JsonHttp, parameters: {{url: \"{at}/no-value\"}}}}\n\
             auth:\n  all: {{token: for-all, url: \"*\"}}\n  some: {{token: for-some, url: [\"/heroku/*\", \"/h?wk\", \"*-1\"]}}\n\
             cache_dir: {}\n",
            directory.join("cachish").display()
        );
        std::fs::write(directory.join("cachish.yml"), yaml).unwrap();
        let mut import = Command::new(env!("CARGO_BIN_EXE_keyhatch"));
        import
            .args(["import", "cachish"])
            .arg(directory.join("cachish.yml"))
            .arg("--out")
            .arg(directory.join("imported"));
        let done = import.args(["--clients", &format!("all={GRANTED},some={STRANGER}")]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        cache = Some(Cachish::start(&directory.join("cachish.yml"), &at));
        up = Some(upstream);
        let config = std::fs::read_to_string(directory.join("imported/keyhatch.toml")).unwrap();
        let heroku = format!("type = \"heroku\", base-url = \"{at}\", allow-plaintext = true");
        config.replace("type = \"heroku\"", &heroku)
    });
    broker.start();
    let (mut upstream, cachish) = (up.unwrap(), cache.unwrap());
    let paths =
        ["/heroku/one", "/heroku/deep/both", "/heroku", "/field", "/open", "/basic", "/hawk", "/hawk-1", "/null"];
    let same = |when: &str| {
        for path in paths {
            let (theirs, ours) = (cachish.ask("for-all", path), broker.curl(GRANTED, path, &[]));
            assert_eq!(
                (status(&theirs), status(&ours)),
                (200, 200),
                "{when}, {path}: {theirs}\n{ours}\n{}",
                broker.log()
            );
            assert_eq!(body(&theirs), body(&ours), "{when}, {path}");
        }
    };
    same("at first");
    // Who is granted what is the same, too.
    for path in paths {
        let (theirs, ours) = (cachish.ask("for-some", path), broker.curl(STRANGER, path, &[]));
        assert_eq!(status(&theirs), status(&ours), "{path}: {theirs}\n{ours}");
    }
    upstream.set_value("another");
    same("after a change");
    upstream.stop();
    same("in an outage");
}

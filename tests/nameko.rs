//! Calls of Nameko services: a real RabbitMQ, real services, and a client in Python that uses keyhatch in the place of
//! nameko-cachetools.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "nameko/rabbit.rs"]
mod rabbit;
#[path = "nameko/services.rs"]
mod services;
mod support;

use std::path::Path;

use rabbit::{Rabbit, USER};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use services::{Front, Services};
use support::parameters::{listed, sealed, status};
use support::{Broker, GRANTED, wait_until};

/// An authority, and a certificate of it for this machine, with its key: all PEM.
fn certificates() -> [String; 3] {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "keyhatch tests");
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    [authority, params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem()]
}

/// A source for a method of `pricing`.
fn source(rabbit: &Rabbit, method: &str) -> String {
    format!(
        "source = {{ type = \"nameko\", broker = \"amqp://127.0.0.1:{}\", user = \"{USER}\", token = \"t\", \
         service = \"pricing\", method = \"{method}\", allow-plaintext = true }}\n",
        rabbit.port
    )
}

/// With these keys, and everybody of the tests granted all of them. Root, too: the services in Python run as root.
fn broker(keys: &str) -> Broker {
    let mut broker = Broker::prepared(|_| {
        format!(
            "[limits]\nfetches-per-user = 1000\n[tokens]\nt = {{ file = \"DIR/token\" }}\n{keys}\n\
             [clients.all]\nuser = [{GRANTED}, 0]\nkeys = [\"/rpc/**\"]\n"
        )
    });
    broker.start();
    broker
}

/// The block of docs/nameko.md that has the class, as a file.
fn proxy(directory: &Path) -> std::path::PathBuf {
    let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/nameko.md")).unwrap();
    let blocks = document.split("```python\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let class = blocks.filter(|block| block.contains("class KeyhatchProxy")).next().unwrap();
    let file = directory.join("proxy.py");
    std::fs::write(&file, class).unwrap();
    file
}

fn call(broker: &Broker, path: &str, body: &Value) -> String {
    broker.curl(GRANTED, path, &["--header", "Content-Type: application/json", "--data-binary", &body.to_string()])
}

fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}")).1).unwrap()
}

/// What nameko-cachetools does, and keyhatch does the same in its place; where it does another thing, that is said.
#[test]
#[ignore = "needs root: starts a RabbitMQ, drops to two uids and asks as others"]
fn a_service_in_python_asks_keyhatch_as_it_asked_its_cached_proxy() {
    let [_, certificate, key] = certificates();
    let mut rabbit = Rabbit::start(&certificate, &key);
    let methods =
        "params.method = { one-of = [\"quote\", \"fragile\", \"slow\", \"nothing\", \"large\", \"missing\"] }\n";
    let broker = broker(&format!(
        "[keys.\"/rpc/cached/{{method}}\"]\n{0}{methods}failover-timeout = \"500ms\"\nstale-if-error = \"forever\"\n\
         [keys.\"/rpc/first/{{method}}\"]\n{0}{methods}max-age = \"forever\"\n",
        source(&rabbit, "{method}")
    ));
    let directory = broker.directory.path();
    let mut services = Services::start(&rabbit.uri(), directory);
    let mut front = Front::start(&rabbit.uri(), &broker.path("keyhatch.sock"), &proxy(directory));
    let value = |told: &Value| told.get("value").cloned().unwrap_or_else(|| panic!("{told}\n{}", broker.log()));

    // Rich arguments cross as they are, and None comes back as None.
    let rich = json!([1, 2.5, "é\"\n", null, true, { "b": [1], "a": {} }]);
    for by in ["plain", "cached", "hatch"] {
        let told = value(&front.ask(by, "quote", rich.clone(), json!({ "z": [{}], "a": "x" })));
        assert_eq!((&told["args"], &told["kwargs"]), (&rich, &json!({ "z": [{}], "a": "x" })), "{by}");
        assert_eq!(value(&front.ask(by, "nothing", json!([]), json!({}))), Value::Null, "{by}");
    }

    // The first one wins for ever; other arguments are another answer.
    let before = services.calls("quote");
    for by in ["first", "hatch_first"] {
        let first = value(&front.ask(by, "quote", json!(["a"]), json!({ "x": 1, "y": 2 })));
        assert_eq!(value(&front.ask(by, "quote", json!(["a"]), json!({ "y": 2, "x": 1 }))), first, "{by}");
        assert_ne!(value(&front.ask(by, "quote", json!(["b"]), json!({}))), first, "{by}");
    }
    assert_eq!(services.calls("quote"), before + 4);

    // Each call asks the service.
    for by in ["cached", "hatch"] {
        let number = |told: Value| value(&told)["number"].as_u64().unwrap();
        let first = number(front.ask(by, "quote", json!([]), json!({})));
        assert!(number(front.ask(by, "quote", json!([]), json!({}))) > first, "{by}");
    }

    // What the service raises comes as Nameko's own error. With a cached answer, nameko-cachetools gives that; keyhatch
    // takes the exception for an answer.
    for by in ["cached", "hatch"] {
        assert_eq!(value(&front.ask(by, "fragile", json!(["pear"]), json!({}))), "one pear");
    }
    services.set("broken", true);
    assert_eq!(value(&front.ask("cached", "fragile", json!(["pear"]), json!({}))), "one pear");
    for (by, what) in [("plain", "pear"), ("cached", "plum"), ("hatch", "pear"), ("hatch", "plum")] {
        let told = front.ask(by, "fragile", json!([what]), json!({}));
        assert_eq!(
            (&told["raised"], &told["type"]),
            (&"RemoteError".into(), &"OutOfStock".into()),
            "{by} {what}: {told}"
        );
        assert!(told["text"].as_str().unwrap().contains("planted-exception-11ce"), "{told}");
    }
    services.set("broken", false);
    for by in ["plain", "hatch"] {
        let told = front.ask(by, "missing", json!([]), json!({}));
        assert_eq!(told["raised"], "MethodNotFound", "{by}: {told}");
    }

    // A deadline only where there is something to fall back on.
    for by in ["cached", "hatch"] {
        assert_eq!(value(&front.ask(by, "slow", json!(["pear"]), json!({}))), "early pear");
    }
    services.set("slow", true);
    for by in ["cached", "hatch"] {
        let told = front.ask(by, "slow", json!(["pear"]), json!({}));
        assert_eq!(value(&told), "early pear", "{by}");
        let took = told["seconds"].as_f64().unwrap();
        assert!((0.45..1.5).contains(&took), "{by}: {took}");
        let told = front.ask(by, "slow", json!([by]), json!({}));
        assert_eq!(value(&told), format!("late {by}"), "unknown arguments wait");
    }
    // The late answer is kept, which nameko-cachetools throws away.
    wait_until("the late answer is there", || {
        let answer = broker.curl(GRANTED, "/rpc/cached/slow?args=%5B%22pear%22%5D", &[]);
        answer.contains("\r\n\r\n\"late pear\"")
    });
    services.set("slow", false);

    // Nobody takes the call, then there is no broker: the cached answer; and an error for unknown arguments.
    services.stop();
    let told = front.ask("hatch", "fragile", json!(["pear"]), json!({}));
    assert_eq!(value(&told), "one pear", "the service is gone");
    rabbit.kill();
    for by in ["cached", "hatch"] {
        assert_eq!(
            value(&front.ask(by, "fragile", json!(["pear"]), json!({}))),
            "one pear",
            "{by}: the broker is gone"
        );
    }
    let told = front.ask("hatch", "fragile", json!(["fig"]), json!({}));
    assert_eq!((&told["raised"], &told["type"]), (&"RemoteError".into(), &"unavailable".into()), "{told}");
    assert_eq!(
        value(&front.ask("hatch_first", "quote", json!(["a"]), json!({ "x": 1, "y": 2 })))["args"],
        json!(["a"])
    );
    let log = broker.log();
    for secret in ["planted", "pear", "OutOfStock"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

//! Calls of Nameko services: a real RabbitMQ, real services, and a client in Python that uses keyhatch in the place of
//! nameko-cachetools.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "nameko/rabbit.rs"]
mod rabbit;
#[path = "nameko/services.rs"]
mod services;
mod support;

use rabbit::{Rabbit, USER};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use services::{Front, Services};
use support::parameters::status;
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
fn prepared(keys: &str) -> Broker {
    Broker::prepared(|_| {
        format!(
            "[limits]\nfetches-per-user = 1000\n[tokens]\nt = {{ file = \"DIR/token\" }}\n{keys}\n\
             [clients.all]\nuser = [{GRANTED}, 0]\nkeys = [\"/rpc/**\"]\n"
        )
    })
}

fn post(broker: &Broker, path: &str, arguments: &Value) -> String {
    broker.write("body", &arguments.to_string(), 0o644);
    let data = format!("@{}", broker.path("body").display());
    broker.curl(GRANTED, path, &["--header", "Content-Type: application/json", "--data-binary", &data])
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
    let mut broker = prepared(&format!(
        "[keys.\"/rpc/cached/{{method}}\"]\n{0}{methods}failover-timeout = \"500ms\"\nstale-if-error = \"forever\"\n\
         [keys.\"/rpc/first/{{method}}\"]\n{0}{methods}max-age = \"forever\"\n\
         [keys.\"/rpc/pricing/{{method}}\"]\n{0}{methods}",
        source(&rabbit, "{method}")
    ));
    broker.start();
    let directory = broker.directory.path();
    let mut services = Services::start(&rabbit.uri(), directory);
    let mut front = Front::start(&rabbit.uri(), &broker.path("keyhatch.sock"), directory);
    let value = |told: &Value| told.get("value").cloned().unwrap_or_else(|| panic!("{told}\n{}", broker.log()));

    // Rich arguments cross as they are, and None comes back as None.
    let rich = json!([1, 2.5, "é\"\n", null, true, { "b": [1], "a": {} }]);
    for by in ["plain", "cached", "hatch"] {
        let told = value(&front.ask(by, "quote", rich.clone(), json!({ "z": [{}], "a": "x" })));
        assert_eq!((&told["args"], &told["kwargs"]), (&rich, &json!({ "z": [{}], "a": "x" })), "{by}");
        assert_eq!(value(&front.ask(by, "nothing", json!([]), json!({}))), Value::Null, "{by}");
    }

    // The service of the page, before and after.
    for by in ["before", "after"] {
        let told = value(&front.ask(by, "price", json!(["pear"]), json!({})));
        assert_eq!((&told["args"], &told["kwargs"]), (&json!(["pear"]), &json!({ "currency": "EUR" })), "{by}");
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
        // Arguments of their own: nameko-cachetools keeps the answers of all methods by the arguments alone.
        assert_eq!(value(&front.ask(by, "slow", json!(["apple"]), json!({}))), "early apple");
    }
    services.set("slow", true);
    for by in ["cached", "hatch"] {
        let told = front.ask(by, "slow", json!(["apple"]), json!({}));
        assert_eq!(value(&told), "early apple", "{by}");
        let took = told["seconds"].as_f64().unwrap();
        assert!((0.45..1.5).contains(&took), "{by}: {took}");
        let told = front.ask(by, "slow", json!([by]), json!({}));
        assert_eq!(value(&told), format!("late {by}"), "unknown arguments wait");
    }
    // The late answer is kept, which nameko-cachetools throws away.
    wait_until("the late answer is there", || {
        let answer = broker.curl(GRANTED, "/rpc/cached/slow?args=%5B%22apple%22%5D", &[]);
        answer.contains("\r\n\r\n\"late apple\"")
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

#[test]
#[ignore = "needs root: starts a RabbitMQ, drops to two uids and asks as others"]
fn the_broker_is_reached_by_tls_and_comes_back() {
    let [authority, certificate, key] = certificates();
    let mut rabbit = Rabbit::start(&certificate, &key);
    let plain = source(&rabbit, "quote");
    let tls =
        plain.replace(&format!("amqp://127.0.0.1:{}", rabbit.port), &format!("amqps://localhost:{}", rabbit.tls_port));
    let tls = tls.replace(", allow-plaintext = true", "");
    let trusted = tls.replace(" }", ", ca-file = \"DIR/authority\" }");
    let keys = [
        ("tls", trusted.replace("\"quote\"", "\"large\"")),
        ("quote", trusted.replace("\"quote\"", "\"fragile\"")),
        // Of an origin of its own: it backs off.
        ("untrusted", tls.replace("localhost", "127.0.0.1")),
        ("nobody", plain.replace("\"pricing\"", "\"nobody\"")),
        ("user", plain.replace(USER, "another")),
        ("vhost", plain.replace("\", user", "/none\", user")),
    ];
    let keys = keys.map(|(name, source)| format!("[keys.\"/rpc/{name}\"]\n{source}"));
    let mut broker = prepared(&keys.concat());
    broker.write("authority", &authority, 0o644);
    broker.start();
    let services = Services::start(&rabbit.uri(), broker.directory.path());

    let text = "x".repeat(400_000);
    let answer = post(&broker, "/rpc/tls", &json!({ "args": [], "kwargs": { "text": text } }));
    assert_eq!(status(&answer), 200, "{}", broker.log());
    assert!(body(&answer) == json!([text.as_str(), text.as_str()].concat()), "400 kB there, 800 kB back");
    for (name, wanted, detail) in [
        ("untrusted", 503, "tls"),
        ("nobody", 503, "no-consumer"),
        ("user", 502, "login-refused"),
        ("vhost", 502, "broker-refused"),
    ] {
        let answer = post(&broker, &format!("/rpc/{name}"), &json!({}));
        assert_eq!(status(&answer), wanted, "{name}: {answer}\n{}", broker.log());
        assert!(answer.contains(&format!("detail={detail}\r\n")), "{name}: {answer}");
    }

    // A broker that ends connections in good order, and one whose power is gone.
    let pear = json!({ "args": ["pear"] });
    let again = |broker: &Broker, what: &str| {
        wait_until(what, || status(&post(broker, "/rpc/quote", &json!({ "args": [what] }))) == 200);
    };
    assert_eq!(body(&post(&broker, "/rpc/quote", &pear)), "one pear", "{}", broker.log());
    rabbit.control(&["close_all_connections", "the test says so"]);
    again(&broker, "calls are made after an orderly end");
    rabbit.kill();
    let answer = post(&broker, "/rpc/quote", &pear);
    assert_eq!(body(&answer), "one pear", "{answer}");
    assert!(
        ["detail=connect-refused\r\n", "detail=reset\r\n"].iter().any(|detail| answer.contains(detail)),
        "{answer}"
    );
    let answer = post(&broker, "/rpc/quote", &json!({ "args": ["fig"] }));
    assert_eq!((status(&answer), &body(&answer)["code"]), (503, &"unavailable".into()), "{answer}");
    rabbit.resume();
    again(&broker, "calls are made after a crash");
    drop(services);
}

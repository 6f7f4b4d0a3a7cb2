//! The same by a real systemd.

use super::lab_of_units::{HOST, INSIDE, Lab, TRIXIE, text};
use super::support::{PARENT, WORKER, wait_until};

impl Lab {
    /// Starts the broker, with its own token as a credential from a file, and waits until it serves.
    fn serve(&self) {
        let (log, own) = (format!("StandardError=file:{INSIDE}/log"), format!("LoadCredential=own:{INSIDE}/token"));
        let run = ["systemd-run", "-q", "--unit=keyhatch", "-p", &log, "-p", &own];
        let started = self.run(&[&run[..], &["KEYHATCH", "serve", "--config", "DIR/keyhatch.toml"]].concat());
        assert!(started.status.success(), "{}", text(&started));
        wait_until("the broker serves", || self.log().contains("serving"));
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

fn configuration() -> String {
    format!(
        "[server]\nsocket = \"DIR/keyhatch.sock\"\nadmin-socket = \"DIR/admin.sock\"\n\
         parent-user = {PARENT}\nworker-user = {WORKER}\n\
         [cache]\ndirectory = \"DIR/cache\"\nseal-key = {{ file = \"DIR/seal.key\" }}\n\
         [tokens]\nown = {{ credential = \"own\" }}\n\
         [keys.\"/billing/database-url\"]\nsource = {{ type = \"file\", path = \"DIR/value\", format = \"text\" }}\n\
         [keys.\"/billing/down\"]\nsource = {{ type = \"http\", url = \"http://127.0.0.1:9/\", allow-plaintext = true, \
         auth = {{ type = \"bearer\", token = \"own\" }} }}\n\
         [keys.\"/billing/later\"]\nsource = {{ type = \"http\", url = \"http://127.0.0.1:9/\", allow-plaintext = true, \
         auth = {{ type = \"bearer\", token = \"own\" }} }}\non-missing = \"wait\"\n\
         [clients.billing]\nunit = [\"billing.service\", \"shop@*.service\"]\nkeys = [\"/billing/*\"]\n\
         credentials = {{ db = \"/billing/database-url\" }}\n"
    )
}

#[test]
#[ignore = "needs root: boots a systemd in namespaces"]
fn a_unit_of_systemd_has_its_credential_or_does_not_start() {
    its_credential_or_no_start(HOST);
}

#[test]
#[ignore = "needs root: boots the systemd of another Debian in namespaces"]
fn a_unit_on_debian_13_has_its_credential_or_does_not_start() {
    its_credential_or_no_start(TRIXIE);
}

fn its_credential_or_no_start(root: &str) {
    let lab = Lab::up(root, &[("keyhatch.toml", &configuration()), ("value", "the value"), ("token", "a-token\n")]);
    // Nothing waits for itself.
    lab.serve();
    // Without a dollar, which systemd-run would read itself.
    let show = ["sh", "-c", "cat `env | sed -n s/^CREDENTIALS_[A-Z]*=//p`/*"];
    let load = |id: &str| format!("LoadCredential={id}:DIR/keyhatch.sock");
    let in_unit = |unit: &str, settings: &[&str], id: &str| {
        let load = load(id).replace("DIR", "/srv/keyhatch");
        let settings = [&[load.as_str()][..], settings].concat();
        lab.in_unit(unit, &settings, &show)
    };
    for (unit, settings, id) in [
        ("billing", &["DynamicUser=yes"][..], "billing.database-url"),
        ("billing", &["User=nobody", "PrivateNetwork=yes", "PrivateMounts=yes"], "db"),
        ("shop@a-b", &["InaccessiblePaths=/srv/keyhatch"], "billing.database-url"),
        ("shop@c", &["Type=oneshot"], "db"),
    ] {
        assert_eq!(in_unit(unit, settings, id), "the value", "{unit} {id}\n{}", lab.log());
    }
    for (unit, id, why) in [
        ("stranger", "billing.database-url", "no client grants it to the unit"),
        ("billing", "unknown", "no client grants it to the unit"),
        ("billing", "billing.unknown", "no key of the configuration"),
        ("billing", "billing.down", "unavailable: "),
    ] {
        let said = in_unit(unit, &[], id);
        assert!(!said.contains("the value"), "{unit} {id}: {said}");
        let told = |line: &str| line.contains("credential refused") && line.contains(&format!("id=\"{id}\""));
        wait_until("it is told", || lab.log().lines().any(|line| told(line) && line.contains(why)));
    }
    the_result_is_a_failure_of_credentials(&lab);
    assert!(!lab.log().contains("panicked") && !lab.log().contains("the value"), "{}", lab.log());
}

/// As `systemctl` shows it, and while a value is waited for.
fn the_result_is_a_failure_of_credentials(lab: &Lab) {
    let start = |unit: &str, id: &str, more: &[&str]| {
        let (name, load) = (format!("--unit={unit}"), format!("LoadCredential={id}:/srv/keyhatch/keyhatch.sock"));
        let run =
            ["systemd-run", "-q", "--no-block", "-p", "RemainAfterExit=yes", "-p", "Type=oneshot", &name, "-p", &load];
        let started = lab.run(&[&run[..], more, &["true"]].concat());
        assert!(started.status.success(), "{}", text(&started));
    };
    let is = |unit: &str| text(&lab.run(&["systemctl", "show", "-p", "ActiveState,Result,ExecMainStatus", unit]));
    start("billing", "billing.down", &[]);
    wait_until("it fails", || is("billing").contains("ActiveState=failed"));
    assert!(is("billing").contains("ExecMainStatus=243"), "{}", is("billing"));
    assert!(text(&lab.run(&["systemctl", "reset-failed", "billing"])).is_empty());
    // The manager's own bound.
    start("billing", "billing.later", &["-p", "TimeoutStartSec=2"]);
    wait_until("it waits", || lab.log().contains("credential: the unit waits"));
    wait_until("it is late", || is("billing").contains("ActiveState=failed"));
    wait_until("it is told", || lab.log().contains("the unit has gone"));
    assert!(text(&lab.run(&["systemctl", "reset-failed", "billing"])).is_empty());
    // The service ends while a unit waits for it.
    start("shop@d", "billing.later", &["-p", "TimeoutStartSec=60"]);
    wait_until("it waits", || lab.log().matches("credential: the unit waits").count() == 2);
    assert!(text(&lab.run(&["systemctl", "stop", "keyhatch"])).is_empty());
    wait_until("it fails", || is("shop@d").contains("ActiveState=failed"));
    assert!(is("shop@d").contains("ExecMainStatus=243"), "{}", is("shop@d"));
}

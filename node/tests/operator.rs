//! What an operator sees of a relay that runs, and does to it: status, metrics, reload, a service manager, keys.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use posta_node::report::{Report, State};

#[path = "support/program.rs"]
mod program;

use program::{Running, edit, fails, init, node, program, said};

/// An address where nobody listens.
fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Writes a drop-in beside a configuration file.
fn drop_in(config: &str, name: &str, text: &str) -> PathBuf {
    let folder = Path::new(config).parent().unwrap().join("conf.d");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), text).unwrap();
    folder.join(name)
}

fn get(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_relay_that_is_not_well_says_so_and_one_that_does_not_run_too() {
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    fails(&["status", "--config", &config], 2, "no relay runs with the state folder");
    let running = Running::start(&config);
    let (code, text) = node(&["status", "--config", &config]);
    assert_eq!(code, 1, "{text}");
    for words in [
        "waiting for the network, not well",
        "offers       edge",
        "takes writes",
        "error        no_consensus: no consensus yet",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    let (code, json) = node(&["status", "--json", "--config", &config]);
    let report: Report = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (code, report.state, report.place.offers.as_slice()),
        (1, State::Waiting, ["edge".to_owned()].as_slice())
    );
    assert!(report.store.writable && report.store.free_bytes > 0 && report.signing_key.identity_here);
    let codes: Vec<_> = report.problems.iter().map(|problem| problem.code.as_str()).collect();
    assert_eq!(codes, ["no_consensus"]);
    fails(&["status", "--watch", "--config", &config], 2, "--watch needs a terminal");
    running.stop();
    fails(&["status", "--json", "--config", &config], 2, "no relay runs");
}

#[test]
fn metrics_are_for_this_machine_only_and_pass_promtool() {
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    edit(&config, "listen = \"\"", "listen = \"0.0.0.0:9464\"");
    fails(&["check", "--config", &config], 2, "`metrics.listen` is 0.0.0.0:9464, which others can reach");
    let address = free_port();
    edit(&config, "0.0.0.0:9464", &address);
    let mut running = Running::start(&config);
    running.until("metrics are served on");

    let answer = get(&address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    for line in ["posta_store_writable 1", "posta_listed 0", "posta_errors 1", "posta_consensus_left_seconds NaN"] {
        assert!(body.lines().any(|l| l == line), "{line} is not in\n{body}");
    }
    assert!(get(&address, "GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(get(&address, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    promtool(body);
    packaged_names_exist(body);
    running.stop();
}

/// Prometheus' own check of names, units and help.
fn promtool(metrics: &str) {
    let started =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut check = match started {
        Ok(check) => check,
        Err(e) => {
            return println!("skipped: promtool can't be started ({e}); on Debian it is in the package prometheus");
        }
    };
    check.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let out = check.wait_with_output().unwrap();
    assert!(out.status.success(), "{}\n{metrics}", String::from_utf8_lossy(&out.stderr));
}

/// Every metric that a packaged alert or dashboard reads is served.
fn packaged_names_exist(metrics: &str) {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("packaging");
    let mut found = 0;
    for file in ["prometheus/posta-rules.yml", "grafana/posta-relay.json"] {
        let text = fs::read_to_string(packaging.join(file)).unwrap();
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| w.starts_with("posta_")) {
            // Before the first consensus some counters have no value yet, but all have their place.
            assert!(metrics.contains(&format!("# TYPE {word} ")), "{file} reads {word}, which there isn't");
            found += 1;
        }
    }
    assert!(found > 30, "{found}");
}

#[test]
fn a_reload_changes_what_it_can_and_names_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    let mut running = Running::start(&config);
    let address = free_port();
    let text = format!(
        "workers = 2\ncapacity = 7\nlog_level = 'debug'\n[limits]\ninboxes = 9\n[store]\nqueue_quota = 9\n[metrics]\nlisten = '{address}'\n"
    );
    let file = drop_in(&config, "10-mine.toml", &text);
    running.signal("HUP");
    let line = running.until("the configuration was reloaded: ");
    assert!(line.contains("capacity, limits.inboxes, log_level, metrics.listen, store.queue_quota"), "{line}");
    assert!(running.until("only from the next start on").contains(": workers"));
    running.until("metrics are served on");
    assert!(get(&address, "GET /metrics HTTP/1.1\r\n\r\n").contains("posta_running 0"));

    // A mistake changes nothing.
    fs::write(&file, "[store]\nqueue_qouta = 9\n").unwrap();
    running.signal("HUP");
    let line = running.until("the configuration was not reloaded");
    assert!(line.contains("10-mine.toml, line 2") && line.contains("did you mean `store.queue_quota`"), "{line}");
    assert!(get(&address, "GET /metrics HTTP/1.1\r\n\r\n").contains("posta_running 0"));

    fs::remove_file(&file).unwrap();
    running.signal("HUP");
    running.until("the configuration was reloaded: ");
    let (code, text) = node(&["status", "--config", &config]);
    assert_eq!(code, 1, "{text}");
    running.stop();
}

#[test]
fn a_relay_retires_across_restarts_until_its_time_is_over_and_can_be_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    let retire = |more: &[&str]| node(&[&["retire", "--config", &config], more].concat());
    let mut running = Running::start(&config);
    let (code, text) = retire(&["--days", "9"]);
    assert!(code == 0 && text.contains("the relay retires, until 2"), "{text}");
    running.until("this relay retires");
    let seen = |expected: bool| {
        let (_, json) = node(&["status", "--json", "--config", &config]);
        let report: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(report.retiring.is_some(), expected, "{json}");
        let (_, text) = node(&["status", "--config", &config]);
        assert_eq!(text.contains("takes nothing new; goes when nobody needs it"), expected, "{text}");
        report.retiring
    };
    let decided = seen(true).unwrap();
    assert_eq!(decided.until - decided.since, 9 * 24 * 3600);
    running.kill();
    let running = Running::start(&config);
    assert_eq!(seen(true), Some(decided), "as it was decided before");
    let (code, text) = retire(&["--cancel"]);
    assert!(code == 0 && text.contains("the relay stays"), "{text}");
    seen(false);
    running.stop();

    // While it doesn't run, and until now: it has no queues that anybody could ask for.
    let (code, text) = retire(&["--days", "0"]);
    assert!(code == 0 && text.contains("start it"), "{text}");
    fails(&["run", "--allow-root", "--config", &config], 2, "this relay has retired");
    assert_eq!(retire(&["--cancel"]).0, 0);
    Running::start(&config).stop();
    fails(&["retire", "--days", "91", "--config", &config], 2, "91 is not in 0..=90");
    edit(&config, "roles = [\"edge\"]", "roles = [\"mix\"]");
    fails(&["retire", "--config", &config], 2, "only an edge holds something for others");
}

#[test]
fn check_says_where_each_value_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    drop_in(&config, "10-mine.toml", "[admission]\npolicy = 'password'\npassword = 'sesame'\n");
    let check = |name: &str, value: &str| said(program().args(["check", "--config", &config]).env(name, value));
    let (code, text) = check("POSTA_STORE__DISK_QUOTA_MIB", "1024");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("store.disk_quota_mib = 1024  (the variable POSTA_STORE__DISK_QUOTA_MIB)"), "{text}");
    assert!(
        text.contains("admission.policy = \"password\"  (") && text.contains("conf.d/10-mine.toml, line 2)"),
        "{text}"
    );
    assert!(text.contains("admission.password = (hidden)") && !text.contains("sesame"), "{text}");
    assert!(text.contains("node.toml, line") && !text.contains("queue_quota"), "{text}");
    let (code, text) = check("POSTA_STORE__DISK_QOUTA_MIB", "1024");
    assert!(code == 2 && text.contains("did you mean POSTA_STORE__DISK_QUOTA_MIB?"), "{text}");
}

#[test]
fn a_service_manager_is_told_what_happens() {
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let heard = || {
        let mut buffer = [0; 512];
        let n = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    };
    let running = Running::start_with(&config, |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
    });
    assert_eq!(heard(), "READY=1");
    let mut told: Vec<_> = std::iter::repeat_with(heard).take(6).collect();
    told.sort();
    assert!(told[0].starts_with("STATUS=no place, 0 links, 0 clients; no consensus yet"), "{told:?}");
    assert!(told[1..].iter().all(|told| told == "WATCHDOG=1"), "{told:?}");
    running.stop();
    let told = std::iter::repeat_with(heard).find(|told| told != "WATCHDOG=1");
    assert_eq!(told.as_deref(), Some("STOPPING=1"));
}

#[test]
fn the_identity_key_goes_offline_and_renews_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let config = init(dir.path());
    let usb = dir.path().join("usb").display().to_string();
    let (code, text) = node(&["keys", "show", "--config", &config]);
    assert!(
        code == 0 && text.contains("identity key in the state folder") && text.contains("89 d 23 h more"),
        "{text}"
    );
    let (code, text) = node(&["keys", "take-identity", "--config", &config, "--to", &usb]);
    assert!(code == 0 && text.contains("second copy"), "{text}");
    fails(&["keys", "renew", "--config", &config], 4, "identity.key");
    let (code, text) = node(&["keys", "renew", "--config", &config, "--identity", &usb]);
    assert!(code == 0 && text.contains("signing key until 20"), "{text}");
    let (code, text) = node(&["keys", "show", "--config", &config]);
    assert!(code == 0 && text.contains("identity key not here"), "{text}");
    Running::start(&config).stop();
}

#[test]
fn man_pages_and_completions_name_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("made");
    let (code, text) = node(&["generate", "--to", to.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let page = fs::read_to_string(to.join("man1/posta-node.1")).unwrap();
    let bash = fs::read_to_string(to.join("bash/posta-node.bash")).unwrap();
    let (_, help) = node(&["--help"]);
    for command in ["init", "check", "run", "status", "keys", "retire", "backup", "restore"] {
        assert!(help.contains(&format!("  {command}")), "{help}");
        assert!(page.contains(command) && bash.contains(command), "{command}");
        let own = fs::read_to_string(to.join(format!("man1/posta-node-{command}.1"))).unwrap();
        assert!(own.contains("SYNOPSIS"), "{own}");
    }
    assert!(to.join("zsh/_posta-node").exists() && to.join("fish/posta-node.fish").exists());
    assert!(!help.contains("generate"), "for packagers only: {help}");
}

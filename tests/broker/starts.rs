//! Starts through the broker.

use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde_json::{Value, json};

use crate::attacks::{connect, found, receive, refusal_by, request, send};
use crate::support::broker::{self, Broker};
use crate::support::container::Container;
use crate::support::host;
use crate::world::{World, code_and_lines, state};

#[test]
fn delivers_to_a_hook_without_credentials_and_records_it() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    for _ in 0..3 {
        let container = Container::create();
        assert_eq!(code_and_lines(&broker.hook(&state(&container))), (0, vec![]));
        assert_eq!(container.secret("db"), world.canary.as_bytes());
    }
    let records = world.records();
    assert_eq!(records.len(), 3);
    for record in records {
        assert_eq!(record["decision"], "delivered");
        assert_eq!(record["secrets"][0]["reference"], "op://AgentVault/db/password");
        let phases: Vec<&String> = record["milliseconds"].as_object().unwrap().keys().collect();
        assert_eq!(phases, ["deliver", "read", "resolve"]);
    }
    assert!(broker.terminate().success());
}

#[test]
fn resolves_while_the_hook_finds_the_container() {
    let Some(world) = World::begin() else { return };
    let settings = std::fs::read_to_string(world.host.settings()).unwrap().replace("\"2s\"", "\"60s\"");
    let metrics = world.host.path("metrics.sock");
    world.host.write("settings.toml", format!("{settings}[broker]\nmetrics = {metrics:?}\n").as_bytes(), 0o644);
    let broker = Broker::start(&world.host);
    let mut request = request();
    request["start"]["milliseconds"] = 60_000.into();
    let container = Container::create();
    let pidfd = pidfd_open(Pid::from_raw(container.pid().cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
    let until = |what: &str, condition: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let socket = connect(&broker);
    send(&socket, &request, None);
    until("nothing is fetched", &|| world.connect_reads() > 0);
    send(&socket, &found(), Some(pidfd.as_fd()));
    assert!(receive(&socket).unwrap().0["delivery"].is_object());
    drop(socket);

    // A hook that ends meanwhile has a record, too.
    let (gone, fetched) = (connect(&broker), world.connect_reads());
    until("the first has no record", &|| world.records().len() == 1);
    send(&gone, &request, None);
    until("nothing is fetched", &|| world.connect_reads() > fetched);
    drop(gone);
    until("the second has no record", &|| world.records().len() == 2);
    let reason = &world.records()[1]["refusal"]["message"];
    assert_eq!(reason, "the hook ended before the record of the start was written");
    let lost = "oci_secrets_broker_starts_total{outcome=\"lost\"} 2";
    until("they do not count as lost", &|| broker::metrics(&metrics).lines().any(|line| line == lost));
}

/// It needs no secret: 1Password may take as long as it likes.
#[test]
fn a_container_that_cannot_have_a_delivery_waits_for_no_secret() {
    let Some(world) = World::begin() else { return };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("\"http://{}\"", silent.local_addr().unwrap());
    let settings = std::fs::read_to_string(world.host.settings()).unwrap();
    let settings = settings.replace(&format!("\"{}\"", world.stand_in.connect()), &url).replace("\"2s\"", "\"60s\"");
    world.host.write("settings.toml", settings.as_bytes(), 0o644);
    let broker = Broker::start(&world.host);
    let mut request = request();
    request["start"]["milliseconds"] = 60_000.into();
    let refused = json!({ "refused": { "code": 71, "message": "no site", "hint": null } });
    assert_eq!(refusal_by(&connect(&broker), (&request, &refused), None), "no site");
    assert_eq!(world.records()[0]["refusal"]["message"], "no site");
}

#[test]
fn what_another_entry_of_the_specs_hooks_has_delivered_is_not_fetched_again() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let container = Container::create();
    let path = container.rootfs().with_file_name("config.json");
    let mut spec: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let entry = json!({ "path": "/usr/libexec/oci-secrets-hook" });
    spec["hooks"] = json!({ "createRuntime": [entry, entry] });
    std::fs::write(path, spec.to_string()).unwrap();
    assert_eq!(code_and_lines(&broker.hook(&state(&container))), (0, vec![]));
    let fetched = world.connect_reads();
    assert_eq!(code_and_lines(&broker.hook(&state(&container))), (0, vec![]));
    assert_eq!((world.connect_reads(), world.decisions()), (fetched, vec!["delivered".to_owned()]));
    assert_eq!(container.secret("db"), world.canary.as_bytes());
}

#[test]
fn never_asks_for_a_container_without_requests() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    broker.signal(Signal::STOP);
    let container = Container::create();
    let begin = Instant::now();
    let foreign = container.state([("io.podman.annotations.init".to_owned(), "FALSE".to_owned())]);
    assert_eq!(code_and_lines(&broker.hook(&foreign)), (0, vec![]));
    assert!(begin.elapsed() < Duration::from_secs(5));
    broker.signal(Signal::CONT);
}

#[test]
fn loads_its_settings_again_and_keeps_the_old_ones_if_they_are_not_valid() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let start = || broker.hook(&state(&Container::create())).status.code().unwrap();
    let reload = |text: &str| {
        world.host.write("settings.toml", text.as_bytes(), 0o644);
        broker.signal(Signal::HUP);
    };
    let until = |code: i32| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while start() != code {
            assert!(Instant::now() < deadline, "never {code}");
        }
    };
    let settings = std::fs::read_to_string(world.host.settings()).unwrap();
    assert_eq!(start(), 0);
    reload(&settings.replace("op://AgentVault/*", "op://Other/*"));
    until(77);
    reload("nonsense");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(start(), 77);
    reload(&settings);
    until(0);
}

#[test]
fn no_start_fails_while_a_broker_of_systemd_is_restarted_again_and_again() {
    let Some(world) = World::begin() else { return };
    let socket = UnixListener::bind(world.host.path("broker.sock")).unwrap();
    let settings = world.host.path("hook.toml");
    broker::write_hook_settings(&settings, &world.host.path("broker.sock"), "");
    let mut running = broker::activated(world.host.settings(), &socket);
    let starts = 30;
    std::thread::scope(|scope| {
        let starters: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..starts {
                        let container = Container::create();
                        let output = host::run(&mut broker::hook(&settings), &state(&container));
                        assert_eq!(code_and_lines(&output), (0, vec![]));
                        assert_eq!(container.secret("db"), world.canary.as_bytes());
                    }
                })
            })
            .collect();
        while starters.iter().any(|starter| !starter.is_finished()) {
            std::thread::sleep(Duration::from_millis(150));
            // The next one may already listen while the last one ends its starts.
            let old = std::mem::replace(&mut running, broker::activated(world.host.settings(), &socket));
            broker::end(old);
        }
    });
    broker::end(running);
    assert_eq!(world.decisions(), vec!["delivered"; 2 * starts]);
}

#[test]
fn a_second_broker_does_not_take_the_socket_of_a_first() {
    let Some(world) = World::begin() else { return };
    let running = Broker::start(&world.host);
    let mut second = world.host.program("oci-secrets-broker");
    let output = host::run(second.arg("--socket").arg(running.socket()), b"");
    let (code, lines) = code_and_lines(&output);
    assert!(code == 71 && lines[0].ends_with("Address already in use (EADDRINUSE)"), "{lines:?}");
    assert_eq!(running.hook(&state(&Container::create())).status.code(), Some(0));
    let mode = std::fs::metadata(running.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_broker_takes_the_socket_of_another_with_replace() {
    let Some(world) = World::begin() else { return };
    let first = Broker::start(&world.host);
    let second = first.replaced(world.host.settings());
    first.signal(Signal::STOP);
    assert_eq!(second.hook(&state(&Container::create())).status.code(), Some(0));
    first.signal(Signal::CONT);
    assert!(first.terminate().success());
    assert_eq!(second.hook(&state(&Container::create())).status.code(), Some(0));
}

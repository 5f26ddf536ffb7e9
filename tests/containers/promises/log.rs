//! The records of a start: in the system log and in the audit file.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread;

use serde_json::Value;

use crate::container::Container;
use crate::direct::Created;
use crate::engine::Engine;
use crate::support::sandbox;
use crate::world::{KEK, World};

pub(super) fn every_start_is_one_audit_record(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    let item = container.secret("db", b"hunter2");
    container.annotate("org.example.team", "agents");
    container.settings = Some(r#"to = { annotations = { "org.example.team" = "agents" } }"#.to_owned());
    assert!(container.run(engine, "true").status.success());

    let [record] = &world.journal.records(&container.name)[..] else { panic!("expected one record") };
    assert_eq!(record["decision"], "delivered");
    let id = record["container"].as_str().unwrap();
    assert!(engine.has_own_ids() || id == container.name, "{record}");
    assert!(Path::new(record["bundle"].as_str().unwrap()).is_absolute(), "{record}");
    assert_eq!(record["annotations"], serde_json::json!({ "org.example.team": "agents" }));
    let secret = &record["secrets"][0];
    assert_eq!((&secret["file"], &secret["item"], &secret["kek"]), (&"db".into(), &item.into(), &KEK.into()));
    assert_eq!(secret["reference"], format!("op://AgentVault/{}/password", container.title("db")));
    assert!(secret["item_version"].is_u64() && record["time"].as_str().unwrap().ends_with('Z'), "{record}");
    let phases: Vec<&String> = record["milliseconds"].as_object().unwrap().keys().collect();
    assert_eq!(phases, ["deliver", "read", "resolve"]);
    // A key file is no place for a KEK, and that is said each time.
    let of_container = world.journal.lines(id);
    let warning = format!("container {id}: {KEK} is a key file on this host, for trials and tests only");
    let warnings: Vec<_> = of_container.iter().filter(|line| line.priority == "4").collect();
    assert!(matches!(&warnings[..], [line] if line.message == warning), "{of_container:?}");
}

pub(super) fn a_start_that_no_broker_receives_is_recorded_with_its_requests(world: &World) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.settings = Some("[broker]\nsocket = \"/run/containers-test/no-broker\"\n".into());
    let ended = Created::new(&container).hook(&[]).end();
    assert_eq!(ended.status.code(), Some(69), "{ended:?}");
    let [record] = &world.journal.records(&container.name)[..] else { panic!("expected one record") };
    assert_eq!((&record["decision"], &record["secrets"][0]["file"]), (&"refused".into(), &"db".into()), "{record}");
    assert_eq!(record["secrets"][0]["reference"], format!("op://AgentVault/{}/password", container.title("db")));
}

pub(super) fn starts_at_the_same_time_do_not_mix_their_records(world: &World, engine: Engine) {
    let first = Container::new(world);
    first.write(engine, "true");
    let file = first.audit_file();
    let containers: Vec<Container<'_>> = std::iter::repeat_with(|| {
        let mut container = Container::new(world);
        container.secret("db", b"hunter2");
        container.settings = Some(format!("[audit]\nfile = \"{}\"", file.display()));
        container
    })
    .take(6)
    .collect();
    thread::scope(|scope| {
        for container in &containers {
            scope.spawn(|| assert_eq!(container.run(engine, "cat /run/secrets/db").text(), "hunter2"));
        }
    });
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.ends_with('\n'));
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), containers.len());
    let started: BTreeSet<&str> = records.iter().map(|record| record["container"].as_str().unwrap()).collect();
    assert_eq!(started.len(), containers.len());
}

pub(super) fn success_is_silent(world: &World) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    let created = Created::new(&container);
    let ended = created.hook(&[]).end();
    assert_eq!((ended.text(), &*ended.stderr), ("", ""));
    assert!(created.mounts().contains("/run/secrets"));
}

pub(super) fn dev_log_takes_the_place_of_the_journal(world: &World) {
    let socket = Path::new(sandbox::DIRECTORY).join("dev-log");
    let listener = UnixDatagram::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let without_journal =
        r#"mount -t tmpfs x /run/systemd && mount -t tmpfs x /dev && ln -s "$0" /dev/log && exec "$@""#;
    let prefix = ["unshare", "--mount", "--propagation=private", "sh", "-c", without_journal, socket.to_str().unwrap()];
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    let start = || Created::new(&container).hook(&prefix).end();

    assert_eq!(start().text(), "");
    let mut datagram = [0; 1 << 16];
    let mut line =
        || listener.recv(&mut datagram).map(|length| String::from_utf8_lossy(&datagram[..length]).into_owned());
    // Facility 10, authpriv, times 8, and the severity.
    assert!(line().unwrap().starts_with("<84>oci-secrets-hook["));
    let record = line().unwrap();
    let (head, record) = record.split_once("]: ").unwrap();
    assert!(head.starts_with("<86>oci-secrets-hook["), "{head}");
    assert_eq!(serde_json::from_str::<Value>(record).unwrap()["decision"], "delivered");
    assert!(line().is_err());
    assert!(world.journal.lines(&container.name).is_empty());

    // No process listens: the container starts nevertheless.
    drop(listener);
    assert_eq!(start().text(), "");
}

//! An outage of 1Password, which the broker bridges with sealed values that it fetched earlier.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::spared;
use crate::support::broker::Broker;
use crate::support::container::Container;
use crate::support::front::{Front, Mode};
use crate::support::python;
use crate::support::search::Needle;
use crate::world::{World, code_and_lines, state};

const PATIENCE: Duration = Duration::from_secs(20);

/// Makes the settings reach Connect through a server that can fail, and allows the use of sealed values in an outage.
pub(crate) fn prepare(world: &World) -> Front {
    let (socket, sealed) = (world.host.path("broker.sock"), world.host.path("sealed"));
    let outage = format!("[outage]\nsealed-values-for = '1h'\ndirectory = {sealed:?}\n");
    spared::prepare(world, &format!("\n[broker]\nsocket = {socket:?}\n{outage}")).0
}

/// Waits until the broker has stored so many values.
pub(crate) fn stored(world: &World, count: usize) -> Vec<PathBuf> {
    let begin = Instant::now();
    loop {
        let entries = fs::read_dir(world.host.path("sealed")).into_iter().flatten().flatten();
        let files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some()).collect();
        if files.len() == count {
            return files;
        }
        assert!(begin.elapsed() < PATIENCE, "{} values are stored, expected {count}", files.len());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn starts_continue_in_an_outage_and_the_record_says_so() {
    let Some(world) = World::begin() else { return };
    let front = prepare(&world);
    let start = |broker: &Broker| {
        let container = Container::create();
        let (code, lines) = code_and_lines(&broker.hook(&state(&container)));
        assert!(code != 0 || container.secret("db") == world.canary.as_bytes());
        (code, lines)
    };
    let outage = || world.records().pop().unwrap()["secrets"][0]["outage"] == true;
    let broker = Broker::start(&world.host);
    assert_eq!(start(&broker), (0, vec![]));
    assert!(!outage());
    for file in stored(&world, 1) {
        assert!(!Needle::new(&world.canary).is_in(fs::read(file).unwrap()), "it is ciphertext");
    }

    front.set(Mode::Close);
    assert_eq!(start(&broker), (0, vec![]));
    let records = world.records();
    assert!(outage() && records[1]["secrets"][0]["fetched"].is_string(), "{records:?}");
    assert_eq!(records[1]["secrets"][0]["fetched_for"], records[0]["start"]);
    assert_eq!(world.decisions(), ["delivered", "delivered"]);
    broker.signal(Signal::KILL);
    drop(broker);
    fs::remove_file(world.host.path("broker.sock")).unwrap();
    let broker = Broker::start(&world.host);
    assert_eq!(start(&broker).0, 0, "after a crash of the broker");
    assert!(outage());

    if let Some(mut validator) = python::client("audit_schema.py") {
        let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/audit.schema.json");
        let output = validator.arg(schema).arg(world.host.path("audit")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    // What was cleared is not used, and is stored again when it is fetched again.
    let cleared = world.host.oci_secrets(&["cache", "clear"], b"");
    assert!(cleared.status.success() && cleared.stdout == b"1 sealed values were removed\n", "{cleared:?}");
    assert_eq!(start(&broker).0, 69);
    front.set(Mode::Forward);
    let begin = Instant::now();
    while start(&broker).0 != 0 {
        assert!(begin.elapsed() < PATIENCE, "the circuit breaker never closes");
    }
    stored(&world, 1);

    // A refusal ends it, also for later outages.
    front.set(Mode::Forward);
    let token = fs::read(world.host.path("token")).unwrap();
    world.host.write("token", b"e30.e30.e30", 0o600);
    let begin = Instant::now();
    while start(&broker).0 != 77 {
        assert!(begin.elapsed() < PATIENCE, "the circuit breaker never closes");
    }
    stored(&world, 0);
    front.set(Mode::Close);
    world.host.write("token", &token, 0o600);
    assert_eq!(start(&broker).0, 69);
}

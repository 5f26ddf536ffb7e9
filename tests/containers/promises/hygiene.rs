//! Where the secret is not: anywhere but in its container.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::container::Container;
use crate::direct::Created;
use crate::engine::Engine;
use crate::support::AGENT_VAULT;
use crate::support::search::{self, Needle};
use crate::world::World;

pub(super) fn nobody_else_holds_the_secret(world: &World, engine: Engine) {
    let (canary, since) = (canary(), now());
    let mut container = Container::new(world);
    container.secret("db", canary.as_bytes());
    let audit = container.audit_file();
    container.settings = Some(format!("[audit]\nfile = \"{}\"", audit.display()));
    let running = container.start(engine, "test -s /run/secrets/db && echo ready; cat >/dev/null");

    let secret = Needle::new(&canary);
    let file = format!("/proc/{}/root/run/secrets/db", running.pid());
    assert!(secret.is_in(fs::read(file).unwrap()), "the container does not hold it either");
    assert!(!search::left_now(&container.name).is_empty(), "the search for what is left would find nothing");
    assert_eq!(secret.processes(), Vec::<&Path>::new());
    assert_eq!(secret.files(since), Vec::<&Path>::new());

    let ended = running.end();
    assert_eq!(secret.files(since), Vec::<&Path>::new());
    // Nor does anything that is said hold it, nor the token that it was fetched with.
    let token = Needle::new(world.stand_in.token());
    assert_eq!(token.processes(), Vec::<&Path>::new());
    let audit = fs::read_to_string(&audit).unwrap();
    assert_eq!(audit.lines().count(), 1);
    let log: Vec<String> = world.journal.lines("").into_iter().map(|line| line.message).collect();
    assert!(log.iter().any(|line| line.contains(&container.name)));
    for said in log.iter().chain([&audit, &ended.stderr]) {
        assert!(!secret.is_in(said) && !token.is_in(said), "{said}");
    }
}

pub(super) fn a_refusal_does_not_tell_what_it_saw(world: &World) {
    let canary = canary();
    let mut container = Container::new(world);
    let title = container.title("db");
    container.ask("db", &title, "password");
    // A value that is not sealed is most likely to be printed by mistake.
    world.stand_in.create_item(AGENT_VAULT, &title, &[("", "password", &canary)]);
    let ended = Created::new(&container).hook(&[]).end();
    assert_eq!((ended.status.code(), ended.stdout.len()), (Some(65), 0), "{ended:?}");
    assert!(ended.stderr.contains("the field holds a value that is not sealed"), "{ended:?}");
    let log = world.journal.lines(&container.name);
    assert!(log.iter().any(|line| line.priority == "3"));
    let secret = Needle::new(&canary);
    for said in log.iter().map(|line| &line.message).chain([&ended.stderr]) {
        assert!(!secret.is_in(said), "{said}");
    }
}

pub(super) fn the_searches_find_what_is_there(world: &World) {
    let (canary, since) = (canary(), now());
    let needle = Needle::new(&canary);
    assert!(!needle.is_in("another") && needle.files(since).is_empty() && needle.processes().is_empty());

    for before in ["", "x", "xy", "xyz"] {
        let text = format!("{before}{canary}and more");
        assert!(needle.is_in(&text) && needle.is_in(STANDARD.encode(text)), "after {before:?}");
    }
    let directories = ["/dev/shm", "/etc", "/run", "/tmp", "/var/lib", "/var/tmp"];
    let planted = directories.map(|directory| tempfile::Builder::new().tempfile_in(directory).unwrap());
    for file in &planted {
        fs::write(file.path(), STANDARD.encode(&canary)).unwrap();
    }
    let mut found = needle.files(since);
    found.sort();
    assert_eq!(found, planted.each_ref().map(|file| file.path()));

    let mut with_environment =
        Command::new("sleep").arg("60").env("PASSWORD", &canary).stdin(Stdio::null()).spawn().unwrap();
    let mut with_argument = Command::new("sh").args(["-c", "read x", &canary]).stdin(Stdio::piped()).spawn().unwrap();
    let places = [(&with_environment, "environ"), (&with_argument, "cmdline")];
    let places = places.map(|(child, file)| Path::new("/proc").join(child.id().to_string()).join(file));
    let found = needle.processes();
    for child in [&mut with_environment, &mut with_argument] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(places.iter().all(|place| found.contains(place)) && found.len() == 2, "{found:?}");

    let sender = UnixDatagram::unbound().unwrap();
    sender.send_to(canary.as_bytes(), "/run/systemd/journal/socket").unwrap();
    assert!(world.journal.lines("").iter().any(|line| needle.is_in(&line.message)));
}

fn canary() -> String {
    format!("canary-{}", std::iter::repeat_with(fastrand::alphanumeric).take(32).collect::<String>())
}

/// Seconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

//! What an operator revokes, and what is removed when its time is over.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde_json::{Value, json};

use crate::attacks::{ask, connect, found, receive, request, send};
use crate::scene::{ITEMS, Scene, pair, target, wait_until};
use crate::support::broker::Broker;
use crate::support::container::{Container, ID};
use crate::support::front::Mode;
use crate::support::{AGENT_VAULT, python};
use crate::world::code_and_lines;

const FIRST: &str = "op://AgentVault/pair-a/password";

/// The files that a container has, by name.
fn files(container: &Container) -> Vec<String> {
    let entries = fs::read_dir(target(container)).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

/// The state of a container that requests both items and keeps the values of its start.
fn fixed(scene: &Scene, container: &Container, more: &[(&str, &str)]) -> Vec<u8> {
    let mut state: Value = serde_json::from_slice(&scene.state(container, more)).unwrap();
    state["annotations"].as_object_mut().unwrap().remove("run.secrets.update");
    state.to_string().into_bytes()
}

fn start_fixed(scene: &Scene, broker: &Broker, container: &Container, more: &[(&str, &str)]) {
    assert_eq!(code_and_lines(&broker.hook(&fixed(scene, container, more))), (0, vec![]));
}

fn revoke(scene: &Scene, broker: &Broker, what: &[&str]) -> (i32, String) {
    scene.command(broker, &[&["revoke", "--reason", "leaked in a log"], what].concat())
}

/// Why a start is refused.
fn refusal(scene: &Scene, broker: &Broker) -> (i32, String) {
    let container = Container::create();
    let (code, lines) = code_and_lines(&broker.hook(&fixed(scene, &container, &[])));
    assert!(code == 0 || !container.has_secrets());
    (code, lines.join("\n"))
}

fn records(scene: &Scene, decision: &str) -> Vec<Value> {
    scene.world.records().into_iter().filter(|one| one["decision"] == decision || one["event"] == decision).collect()
}

#[test]
fn a_revoked_reference_leaves_every_container_and_no_start_gets_it_until_it_has_a_newer_version() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let (live, kept) = (Container::create(), Container::create());
    scene.start(&broker, &live, &[]);
    start_fixed(&scene, &broker, &kept, &[]);
    let mut open = File::open(target(&kept).join(ITEMS[0])).unwrap();

    let (code, text) = revoke(&scene, &broker, &[FIRST]);
    assert!(code == 0 && text.matches("1 file removed").count() == 2, "{code}: {text}");
    assert!(text.contains("until the item has a version after 1, or `--end`: leaked in a log"), "{text}");
    for container in [&live, &kept] {
        assert_eq!(files(container), [ITEMS[1]]);
        assert_eq!(fs::read_to_string(target(container).join(ITEMS[1])).unwrap(), scene.secret(0));
    }
    // A descriptor that was open reads nothing any more.
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
    let act = records(&scene, "revoke");
    assert!(act.len() == 1 && act[0]["reference"] == FIRST && act[0]["reason"] == "leaked in a log", "{act:?}");
    let withdrawn = records(&scene, "withdrawn");
    assert_eq!(withdrawn.len(), 2, "{withdrawn:?}");
    assert_eq!(withdrawn[0]["withdrawal"], json!({ "cause": "revoked", "reason": "leaked in a log" }));
    assert_eq!(
        (&withdrawn[0]["update"]["generation"], &withdrawn[0]["secrets"][0]["file"]),
        (&json!(2), &json!(ITEMS[0]))
    );

    let (code, text) = refusal(&scene, &broker);
    assert!(code == 77 && text.contains(&format!("refusing to deliver {FIRST}: it was revoked at ")), "{code}: {text}");
    assert!(
        text.contains("\"leaked in a log\"") && text.contains(&format!("`oci-secrets revoke --end {FIRST}`")),
        "{text}"
    );
    assert!(text.contains("a version of the item after 1 is delivered"), "{text}");
    // An update gives it back to no container, and changes the other file.
    scene.rotate_one(1, 1);
    assert_eq!(scene.refresh(&broker).0, 0);
    assert_eq!(files(&live), [ITEMS[1]]);
    assert_eq!(fs::read_to_string(target(&live).join(ITEMS[1])).unwrap(), scene.secret(1));
    let (_, text) = scene.command(&broker, &["check"]);
    assert!(text.contains(&format!("revoked: {FIRST} is revoked since ")), "{text}");

    // The next broker knows it, too.
    broker.signal(Signal::KILL);
    drop(broker);
    let broker = Broker::start(&scene.world.host);
    assert_eq!(refusal(&scene, &broker).0, 77);
    scene.rotate_one(0, 1);
    assert_eq!(refusal(&scene, &broker), (0, String::new()));
    assert_eq!(scene.refresh(&broker).0, 0);
    assert_eq!(pair(&live), [scene.secret(1), scene.secret(1)]);
    assert_eq!(files(&kept), [ITEMS[1]]);
    validate(&scene);
}

/// Each line of the audit trail is as documented.
fn validate(scene: &Scene) {
    if let Some(mut validator) = python::client("audit_schema.py") {
        let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/audit.schema.json");
        let output = validator.arg(schema).arg(scene.world.host.path("audit")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn an_end_gives_a_reference_back_to_starts_and_to_containers_that_follow_changes() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let live = Container::create();
    scene.start(&broker, &live, &[]);
    let (code, text) = scene.command(&broker, &["revoke", "--end", FIRST]);
    assert!(code == 66 && text.contains("is not revoked"), "{code}: {text}");
    assert_eq!(revoke(&scene, &broker, &[FIRST]).0, 0);
    assert_eq!(refusal(&scene, &broker).0, 77);
    let (code, text) = scene.command(&broker, &["revoke", "--end", FIRST]);
    assert!(code == 0 && text == format!("{FIRST} is allowed again\n"), "{code}: {text}");
    assert_eq!(refusal(&scene, &broker), (0, String::new()));
    assert_eq!(pair(&live), [scene.secret(0), scene.secret(0)]);
    assert_eq!(records(&scene, "revoke-end").len(), 1);
    validate(&scene);
}

#[test]
fn a_container_loses_all_files_and_does_not_start_again() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let container = Container::create();
    start_fixed(&scene, &broker, &container, &[]);
    let (code, text) = revoke(&scene, &broker, &["--container", "0000"]);
    assert!(code == 66 && text.contains("no running container"), "{code}: {text}");
    let (code, text) = revoke(&scene, &broker, &["--container", &ID[..12]]);
    assert!(code == 0 && text.contains("2 files removed"), "{code}: {text}");
    assert!(files(&container).is_empty());
    let (code, text) = refusal(&scene, &broker);
    assert!(code == 77 && text.contains(&format!("refusing to deliver to container {ID}: it was revoked")), "{text}");
    assert!(text.contains(&format!("`oci-secrets revoke --end --container {ID}`")), "{text}");
    assert_eq!(scene.command(&broker, &["revoke", "--end", "--container", &ID[..12]]).0, 0);
    assert_eq!(refusal(&scene, &broker).0, 0);
}

/// Neither what is stored for an outage, nor what 1Password has removed.
#[test]
fn what_is_revoked_comes_from_no_outage_and_does_not_hold_up_other_files() {
    let Some(scene) = Scene::begin() else { return };
    let front = crate::outage::prepare(&scene.world);
    let broker = Broker::start(&scene.world.host);
    let live = Container::create();
    scene.start(&broker, &live, &[]);
    crate::outage::stored(&scene.world, ITEMS.len());
    front.set(Mode::Close);
    // It needs neither 1Password nor the KMS.
    let (code, text) = revoke(&scene, &broker, &[FIRST]);
    assert!(code == 0 && text.contains("1 file removed") && text.contains("a version after 1"), "{code}: {text}");
    assert_eq!(files(&live), [ITEMS[1]]);
    let (code, text) = refusal(&scene, &broker);
    assert!(code == 69, "{code}: {text}");
    front.set(Mode::Forward);
    wait_until("the source", || refusal(&scene, &broker).0 == 77);
    scene.delete(0);
    scene.rotate_one(1, 1);
    wait_until("the update", || scene.refresh(&broker).0 == 0);
    assert_eq!(fs::read_to_string(target(&live).join(ITEMS[1])).unwrap(), scene.secret(1));
}

/// The list names the id of the item, and not the reference of the container.
#[test]
fn an_item_that_is_deleted_after_its_revocation_by_another_name_does_not_hold_up_other_files() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let live = Container::create();
    scene.start(&broker, &live, &[]);
    let by_id = format!("op://AgentVault/{}/password", scene.items[0]);
    let (code, text) = revoke(&scene, &broker, &[&by_id]);
    assert!(code == 0 && text.contains("1 file removed"), "{code}: {text}");
    assert_eq!(files(&live), [ITEMS[1]]);
    scene.delete(0);
    scene.rotate_one(1, 1);
    let (code, text) = scene.refresh(&broker);
    assert_eq!(code, 0, "{text}");
    assert_eq!(fs::read_to_string(target(&live).join(ITEMS[1])).unwrap(), scene.secret(1));
}

/// An item with two fields, whose values are not sealed: a sealed value opens only by one spelling of its reference.
struct Plain {
    item: String,
    field: String,
}

impl Plain {
    fn store(scene: &Scene) -> Plain {
        let fields = [("", "password", "plain"), ("", "user", "plain")];
        let item = scene.world.stand_in.create_item(AGENT_VAULT, "plain", &fields);
        let stored = scene.world.stand_in.request("GET", &Plain::path(&item), &Value::Null);
        let settings = fs::read_to_string(scene.world.host.settings()).unwrap();
        let grant = "references = [\"op://AgentVault/*\", \"op://agentvault0000000000000000/*\"]";
        let settings = settings.replace("[deliver]\n", "[deliver]\nplaintext = \"allow\"\n");
        let settings = settings.replace("references = [\"op://AgentVault/*\"]", grant);
        scene.world.host.write("settings.toml", settings.as_bytes(), 0o644);
        Plain { item, field: stored["fields"][0]["id"].as_str().unwrap().to_owned() }
    }

    fn path(item: &str) -> String {
        format!("/v1/vaults/{AGENT_VAULT}/items/{item}")
    }

    /// The field by its label, by its id, and by nothing but ids; and the other field.
    fn references(&self) -> [String; 4] {
        let Plain { item, field } = self;
        [
            "op://AgentVault/plain/password".to_owned(),
            format!("op://AgentVault/plain/{field}"),
            format!("op://{AGENT_VAULT}/{item}/{field}"),
            "op://AgentVault/plain/user".to_owned(),
        ]
    }

    fn start(broker: &Broker, reference: &str) -> (Container, i32) {
        let container = Container::create();
        let output = broker.hook(&container.state([("run.secrets/plain".to_owned(), reference.to_owned())]));
        let code = output.status.code().unwrap();
        (container, code)
    }
}

#[test]
fn a_field_is_revoked_by_whichever_of_its_names() {
    let Some(scene) = Scene::begin() else { return };
    let plain = Plain::store(&scene);
    let broker = Broker::start(&scene.world.host);
    let references = plain.references();
    let starts = |broker: &Broker| references.each_ref().map(|reference| Plain::start(broker, reference).1);
    for revoked in [&references[0], &references[1], &references[2]] {
        let containers = references.each_ref().map(|reference| Plain::start(&broker, reference));
        assert!(containers.iter().all(|(_, code)| *code == 0));
        let (code, text) = revoke(&scene, &broker, &[revoked]);
        assert!(code == 0 && text.matches("1 file removed").count() == 3, "{code}: {text}");
        let left = containers.each_ref().map(|(container, _)| files(container).len());
        assert_eq!(left, [0, 0, 0, 1], "{revoked}");
        assert_eq!(starts(&broker), [77, 77, 77, 0], "{revoked}");
        let causes = records(&scene, "withdrawn");
        assert!(causes.iter().all(|one| one["withdrawal"]["reason"] == "leaked in a log"), "{causes:?}");
        assert_eq!(scene.command(&broker, &["revoke", "--end", revoked]).0, 0);
        assert_eq!(starts(&broker), [0; 4], "{revoked}");
    }
    // A newer version is delivered by each of them.
    assert_eq!(revoke(&scene, &broker, &[&references[1]]).0, 0);
    let change = json!([{ "op": "replace", "path": "/fields/0/value", "value": "newer" }]);
    scene.world.stand_in.request("PATCH", &Plain::path(&plain.item), &change);
    assert_eq!(starts(&broker), [0; 4]);
}

/// As soon as 1Password says which field it is.
#[test]
fn a_field_is_revoked_by_its_other_names_after_an_outage() {
    let Some(scene) = Scene::begin() else { return };
    let front = crate::outage::prepare(&scene.world);
    let plain = Plain::store(&scene);
    scene.settings("1s");
    let broker = Broker::start(&scene.world.host);
    let [label, id, _, other] = plain.references();
    let (by_id, by_other) = (Plain::start(&broker, &id).0, Plain::start(&broker, &other).0);
    front.set(Mode::Close);
    let (code, text) = revoke(&scene, &broker, &[&label]);
    assert!(
        code == 0 && text.contains("no running container has it") && text.contains("did not say which field"),
        "{text}"
    );
    assert_eq!(files(&by_id).len(), 1);
    front.set(Mode::Forward);
    wait_until("the removal", || files(&by_id).is_empty());
    assert_eq!(files(&by_other).len(), 1);
    assert_eq!([&label, &id, &other].map(|reference| Plain::start(&broker, reference).1), [77, 77, 0]);
    // Whatever version it has.
    let (_, text) = scene.command(&broker, &["check"]);
    assert!(text.contains("until `--end`: leaked in a log"), "{text}");
}

/// It has neither been seen by the revocation, nor has it seen that when its files were resolved.
#[test]
fn a_start_in_progress_does_not_slip_through() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let container = Container::create();
    let pidfd = pidfd_open(Pid::from_raw(container.pid().cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
    let socket = connect(&broker);
    ask(&socket, &request(), &found(), Some(pidfd.as_fd()));
    let (answer, mount) = receive(&socket).unwrap();
    assert_eq!(answer, json!({ "delivery": { "files": ["db"] } }));
    assert_eq!(revoke(&scene, &broker, &[crate::world::REFERENCE]).0, 0);
    send(&socket, &json!("attached"), None);
    let (receipt, _) = receive(&socket).unwrap();
    assert!(receipt["refused"]["message"].as_str().unwrap().contains("it was revoked"), "{receipt}");
    let flags = rustix::fs::OFlags::RDONLY;
    let file = rustix::fs::openat(mount.unwrap(), "db", flags, rustix::fs::Mode::empty());
    assert!(file.is_err(), "its files are not destroyed");
}

#[test]
fn says_which_container_keeps_its_files_and_removes_those_of_others() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let (covered, other) = (Container::create(), Container::create());
    start_fixed(&scene, &broker, &covered, &[]);
    start_fixed(&scene, &broker, &other, &[]);
    // The next broker has nothing but the container's own mounts to find the files.
    drop(broker);
    let broker = Broker::start(&scene.world.host);
    let mount = |script: &str| {
        let mut nsenter = std::process::Command::new("nsenter");
        nsenter.args(["--target", &covered.pid().to_string(), "--mount", "sh", "-ec", script]);
        assert!(nsenter.arg(covered.rootfs().join("run/secrets")).status().unwrap().success());
    };
    mount("mount -t tmpfs own \"$0\"");
    let (code, text) = revoke(&scene, &broker, &[FIRST]);
    assert!(code == 71 && text.contains("1 of 2 containers keep files that are revoked"), "{code}: {text}");
    assert!(text.contains("NOT removed: the container has mounted something over the files"), "{text}");
    assert_eq!(files(&other), [ITEMS[1]]);
    assert_eq!(records(&scene, "not-withdrawn").len(), 1);
    assert_eq!(refusal(&scene, &broker).0, 77);
    let (_, text) = scene.command(&broker, &["check"]);
    assert!(text.contains("mounted something over the files"), "{text}");
    mount("umount \"$0\"");
    let (code, text) = revoke(&scene, &broker, &[FIRST]);
    assert!(code == 0 && text.contains("1 file removed"), "{code}: {text}");
    assert_eq!(files(&covered), [ITEMS[1]]);
    validate(&scene);
}

#[test]
fn a_list_that_others_could_have_written_refuses_all_starts() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let list = scene.world.host.path("revoked.json");
    fs::write(&list, "[]").unwrap();
    fs::set_permissions(&list, fs::Permissions::from_mode(0o666)).unwrap();
    let (code, text) = refusal(&scene, &broker);
    assert!(
        code == 77 && text.contains("cannot read what is revoked") && text.contains("chmod go-w"),
        "{code}: {text}"
    );
    fs::set_permissions(&list, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(refusal(&scene, &broker), (0, String::new()));
    fs::write(&list, "{").unwrap();
    assert_eq!(refusal(&scene, &broker).0, 78);
}

#[test]
fn all_files_go_when_their_time_is_over_also_after_a_restart() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let (short, long) = (Container::create(), Container::create());
    let began = Instant::now();
    start_fixed(&scene, &broker, &long, &[("run.secrets.withdraw", "3s")]);
    scene.start(&broker, &short, &[("run.secrets.withdraw", "1s")]);
    wait_until("the removal", || files(&short).is_empty());
    assert!(began.elapsed().as_secs() >= 1);
    broker.signal(Signal::KILL);
    drop(broker);
    assert_eq!(files(&long).len(), 2);
    let broker = Broker::start(&scene.world.host);
    wait_until("the removal", || files(&long).is_empty());
    assert!(began.elapsed().as_secs() >= 3);
    // An update gives nothing back.
    scene.rotate(1);
    let (code, text) = scene.refresh(&broker);
    assert!(code == 0 && text.contains("no running container is updated"), "{code}: {text}");
    assert!(files(&short).is_empty());
    // The first broker may have been killed between a record and the state: then the next one records it again.
    wait_until("the records", || records(&scene, "withdrawn").len() >= 2);
    assert_eq!(records(&scene, "withdrawn")[0]["withdrawal"], json!({ "cause": "time" }));
    validate(&scene);
}

#[test]
fn refuses_a_time_that_is_none_and_one_that_nothing_keeps() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let container = Container::create();
    let state = fixed(&scene, &container, &[("run.secrets.withdraw", "soon")]);
    let (code, lines) = code_and_lines(&broker.hook(&state));
    assert!(code == 65 && lines[0].contains("expected a duration from 1s to 168h, found \"soon\""), "{lines:?}");
    let state = fixed(&scene, &container, &[("run.secrets.withdraw", "60s")]);
    let output = crate::support::host::run(&mut scene.world.host.program("oci-secrets-hook"), &state);
    let (code, lines) = code_and_lines(&output);
    assert!(code == 78 && lines[0].contains("run.secrets.withdraw needs the broker"), "{lines:?}");
    assert!(!container.has_secrets());
}

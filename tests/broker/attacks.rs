//! Peers that do not behave like the hook. After each, a start succeeds.

use std::fs::File;
use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use oci_secrets::broker::wire::{Incoming, Outgoing};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::container::Container;
use crate::world::{REFERENCE, World, code_and_lines, state};

/// A start of a container that requests the secret.
pub(crate) fn request() -> Value {
    json!({ "start": {
        "start": format!("{:016x}", fastrand::u64(..)),
        "container": "c1",
        "bundle": "/bundle",
        "annotations": { "run.secrets/db": REFERENCE },
        "image": { "annotations": {} },
        "unusable": null,
        "milliseconds": 3000,
    } })
}

/// What a hook has found of it.
pub(crate) fn found() -> Value {
    json!({ "container": { "user": { "uid": 1000, "gid": 1000 }, "label": null, "places": [] } })
}

pub(crate) fn connect(broker: &Broker) -> UnixStream {
    let socket = UnixStream::connect(broker.socket()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}

pub(crate) fn send(socket: &UnixStream, message: &Value, descriptor: Option<BorrowedFd<'_>>) {
    Outgoing::new(message, descriptor, usize::MAX).unwrap().send(socket.as_fd()).unwrap();
}

/// Requests a start with what was found of the container, and this descriptor.
pub(crate) fn ask(socket: &UnixStream, request: &Value, found: &Value, descriptor: Option<BorrowedFd<'_>>) {
    send(socket, request, None);
    // A request that is refused needs no container.
    let _ = Outgoing::new(found, descriptor, usize::MAX).unwrap().send(socket.as_fd());
}

/// The next message of the broker, and whether a descriptor came with it; `None` at the end of the connection.
pub(crate) fn receive(socket: &UnixStream) -> Option<(Value, Option<OwnedFd>)> {
    let mut incoming = Incoming::new(1 << 20);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match incoming.receive(socket.as_fd()) {
            Ok(()) => break,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1))
            }
            Err(_) => return None,
        }
        assert!(Instant::now() < deadline, "the broker does not answer");
    }
    let (message, descriptor) = incoming.parse().unwrap();
    Some((message, descriptor.and_then(|descriptor| descriptor.into_owned())))
}

/// The message with which a start is refused.
fn refusal(broker: &Broker, descriptor: Option<BorrowedFd<'_>>) -> String {
    refusal_by(&connect(broker), (&request(), &found()), descriptor)
}

/// The same, on this connection.
pub(crate) fn refusal_by(
    socket: &UnixStream,
    (request, found): (&Value, &Value),
    descriptor: Option<BorrowedFd<'_>>,
) -> String {
    ask(socket, request, found, descriptor);
    let (answer, descriptor) = receive(socket).expect("the connection was closed");
    assert!(descriptor.is_none());
    answer["refused"]["message"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// Waits until the broker closes the connection.
pub(crate) fn closes(mut socket: UnixStream) {
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
}

pub(crate) fn starts(world: &World, broker: &Broker) {
    let container = Container::create();
    assert_eq!(code_and_lines(&broker.hook(&state(&container))), (0, vec![]));
    assert_eq!(container.secret("db"), world.canary.as_bytes());
}

#[test]
fn wrong_descriptors_are_refused() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let no_process =
        "cannot use the descriptor of the container's process: it is of no process that can be seen from here";
    let (reader, _writer) = std::io::pipe().unwrap();
    let others: [OwnedFd; 5] = [
        File::open("/dev/null").unwrap().into(),
        File::open("/proc/self/status").unwrap().into(),
        File::open("/proc/self/ns/mnt").unwrap().into(),
        reader.into(),
        UnixStream::pair().unwrap().0.into(),
    ];
    for descriptor in &others {
        assert_eq!(refusal(&broker, Some(descriptor.as_fd())), no_process);
    }
    let none = "no descriptor of the container's process came with what the hook has found";
    assert_eq!(refusal(&broker, None), none);

    // The broker's own process, and one that shares its mounts.
    for pid in [broker.pid(), std::process::id()] {
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let refusal = refusal(&broker, Some(pidfd.as_fd()));
        assert_eq!(refusal, "refusing to enter the container: it has no mount namespace of its own");
    }
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    let pidfd = pidfd_open(Pid::from_child(&ended), PidfdFlags::empty()).unwrap();
    ended.wait().unwrap();
    assert_eq!(refusal(&broker, Some(pidfd.as_fd())), "the container's process has ended");
    assert!(world.decisions().iter().all(|decision| decision == "refused"));

    // Two at once.
    let (socket, null) = (connect(&broker), File::open("/dev/null").unwrap());
    let descriptors = [null.as_fd(), null.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&socket, &[IoSlice::new(b"OSB")], &mut ancillary, SendFlags::empty()).unwrap();
    closes(socket);
    starts(&world, &broker);
}

#[test]
fn messages_that_are_not_as_documented_are_refused() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"OSB\x01\0\0\0\x02{}", b"OSB\x01\xff\xff\xff\xff", b"OSB\x01\0\0\0\x03nul"]
    {
        let mut socket = connect(&broker);
        socket.write_all(bytes).unwrap();
        closes(socket);
    }
    let mut socket = connect(&broker);
    socket.write_all(b"OSB\x09\0\0\0\x02{}").unwrap();
    let mut head = [0; 8];
    socket.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"OSB\x01\0\0\0\0");
    let changed = |mut message: Value, pointer: &str, value: Value| {
        *message.pointer_mut(pointer).unwrap() = value;
        message
    };
    let container = Container::create();
    let state: Value = serde_json::from_slice(&state(&container)).unwrap();
    let pid = Pid::from_raw(i32::try_from(state["pid"].as_i64().unwrap()).unwrap()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let refused = |request: &Value, found: &Value| refusal_by(&connect(&broker), (request, found), Some(pidfd.as_fd()));
    let places = "the places for what is carried over are not paths below /run/secrets, or more than 4096";
    for path in ["..", "/etc", "a/../../b", ""] {
        let path = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, path);
        let found = changed(found(), "/container/places", json!([{ "path": path, "directory": true }]));
        assert_eq!(refused(&request(), &found), places);
    }
    let id = changed(request(), "/start/start", json!("../../etc/passwd"));
    assert_eq!(refused(&id, &found()), "the request has no valid id");
    let user = changed(found(), "/container/user", Value::Null);
    assert_eq!(refused(&request(), &user), "no owner for the secrets: the spec has no process.user");
    let image = changed(request(), "/start/image", json!("alpine"));
    for unknown in [json!({ "start": {} }), json!({ "stop": null }), json!([]), image] {
        let socket = connect(&broker);
        send(&socket, &unknown, None);
        assert!(receive(&socket).is_none());
    }
    let root = changed(found(), "/container/user", json!("root"));
    for unknown in [json!("container"), json!({ "container": {} }), request(), json!("attached"), root] {
        let odd = "the hook did not report what it found of the container, but sent something else";
        assert_eq!(refused(&request(), &unknown), odd);
    }
    assert!(!container.has_secrets());
    starts(&world, &broker);
}

#[test]
fn oversized_annotations_are_refused() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let mut large = request();
    large["start"]["annotations"]["other"] = "x".repeat(7 << 20).into();
    let socket = connect(&broker);
    let mut outgoing = Outgoing::new(&large, None, usize::MAX).unwrap();
    let broken = loop {
        match outgoing.send(socket.as_fd()) {
            Ok(()) => break false,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1))
            }
            Err(_) => break true,
        }
    };
    assert!(broken || receive(&socket).is_none());
    starts(&world, &broker);
}

#[test]
fn a_second_delivery_to_a_process_leaves_it_the_files_that_it_has_mounted() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let container = Container::create();
    assert_eq!(code_and_lines(&broker.hook(&state(&container))), (0, vec![]));
    let pidfd = pidfd_open(Pid::from_raw(container.pid().cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
    let deliver = || {
        let socket = connect(&broker);
        ask(&socket, &request(), &found(), Some(pidfd.as_fd()));
        let (_, mount) = receive(&socket).unwrap();
        send(&socket, &json!("attached"), None);
        assert_eq!(receive(&socket).unwrap().0, json!("recorded"));
        let flags = rustix::fs::OFlags::RDONLY;
        File::from(rustix::fs::openat(mount.unwrap(), "db", flags, rustix::fs::Mode::empty()).unwrap())
    };
    let read = |mut file: &File| {
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        content
    };
    let unmounted = deliver();
    assert_eq!(container.secret("db"), world.canary.as_bytes());
    let last = deliver();
    assert_eq!(container.secret("db"), world.canary.as_bytes());
    assert_eq!((read(&unmounted), read(&last)), (String::new(), world.canary.clone()));
}

#[test]
fn what_a_process_has_unmounted_does_not_pile_up_over_restarts() {
    let Some(world) = World::begin() else { return };
    let (container, states) = (Container::create(), world.host.path("containers"));
    let (pid, target) = (container.pid().to_string(), container.rootfs().join("run/secrets"));
    let unmount = || {
        let unmounted = Command::new("nsenter").args(["-t", &pid, "-m", "umount", "-l"]).arg(&target).status().unwrap();
        assert!(unmounted.success());
    };
    for _ in 0..3 {
        let broker = Broker::start(&world.host);
        // A broker reads the states while it already serves starts.
        let left = (0..50).find(|_| {
            assert_eq!(code_and_lines(&broker.hook(&state(&container))), (0, vec![]));
            unmount();
            std::fs::read_dir(&states).unwrap().count() == 1
        });
        assert!(left.is_some(), "{} states", std::fs::read_dir(&states).unwrap().count());
        broker.terminate();
    }
}

#[test]
fn a_process_that_covers_its_files_again_and_again_keeps_few_of_them() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let container = Container::create();
    let (pid, target) = (container.pid().to_string(), container.rootfs().join("run/secrets"));
    let deliver = || {
        let outcome = code_and_lines(&broker.hook(&state(&container)));
        let arguments = ["-t", &pid, "-m", "mount", "-t", "tmpfs", "cover"];
        assert!(Command::new("nsenter").args(arguments).arg(&target).status().unwrap().success());
        outcome
    };
    for _ in 0..4 {
        assert_eq!(deliver(), (0, vec![]));
    }
    let (code, lines) = deliver();
    assert_eq!(code, 77);
    assert!(
        lines[0].ends_with("refusing to deliver to the container: its process has 4 deliveries already"),
        "{lines:?}"
    );
    assert_eq!(std::fs::read_dir(world.host.path("containers")).unwrap().count(), 4);
    starts(&world, &broker);
}

#[test]
fn a_thousand_connections_keep_no_start_waiting() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let mut idle: Vec<UnixStream> = (0..1000).map(|_| connect(&broker)).collect();
    for (index, socket) in idle.iter_mut().enumerate() {
        let part = &b"OSB\x01\0\x01\0\0{\"start\""[..index % 14];
        let _ = socket.write_all(part);
    }
    starts(&world, &broker);
    // They are closed when no request has come.
    for socket in idle {
        closes(socket);
    }
}

#[test]
fn the_files_of_a_peer_that_never_reports_are_destroyed() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let container = Container::create();
    let state: Value = serde_json::from_slice(&state(&container)).unwrap();
    let pid = Pid::from_raw(i32::try_from(state["pid"].as_i64().unwrap()).unwrap()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let deliver = || {
        let socket = connect(&broker);
        ask(&socket, &request(), &found(), Some(pidfd.as_fd()));
        let (answer, mount) = receive(&socket).unwrap();
        assert_eq!(answer, json!({ "delivery": { "files": ["db"] } }));
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::openat(mount.unwrap(), "db", flags, rustix::fs::Mode::empty()).unwrap();
        (socket, File::from(file))
    };
    // It is silent, it leaves, it sends nonsense, it reports a failure.
    // Only a hook that reports a failure gets the answer that it is recorded: any other may have attached the files.
    let refused = |socket: &UnixStream, reason: &str| {
        let (receipt, _) = receive(socket).unwrap();
        assert_eq!(receipt["refused"]["message"], reason, "{receipt}");
    };
    let (silent, mut file) = deliver();
    refused(&silent, "the hook did not report in time what became of the files");
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "");

    let (gone, file) = deliver();
    drop(gone);
    is_destroyed(file);
    let (odd, file) = deliver();
    send(&odd, &json!("detached"), None);
    refused(&odd, "the hook did not report what became of the files, but sent something else");
    is_destroyed(file);
    let (failed, file) = deliver();
    send(&failed, &json!({ "refused": { "code": 71, "message": "move_mount", "hint": null } }), None);
    assert_eq!(receive(&failed).unwrap().0, json!("recorded"));
    is_destroyed(file);
    // A hook that has reported, and leaves before the receipt, may or may not be noticed; one that leaves first is.
    let reasons: Vec<Value> = world.records().iter().map(|record| record["refusal"]["message"].clone()).collect();
    assert_eq!(
        reasons,
        [
            "the hook did not report in time what became of the files",
            "the hook ended before the record of the start was written",
            "the hook did not report what became of the files, but sent something else",
            "move_mount",
        ]
    );
    starts(&world, &broker);
}

/// Waits until the content of an open file is gone.
fn is_destroyed(mut file: File) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut content = String::new();
        std::io::Seek::rewind(&mut file).unwrap();
        file.read_to_string(&mut content).unwrap();
        if content.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "the file is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

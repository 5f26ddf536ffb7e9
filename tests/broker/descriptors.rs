//! Descriptors of every kind, with every message: none is used for what it is not, none stays open, and none keeps the broker waiting.

use std::fs::read_dir;
use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use oci_secrets::broker::wire::Outgoing;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, open};
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde_json::{Value, json};

use crate::attacks::{ask, closes, connect, found, receive, request, send, starts};
use crate::fuse::Fuse;
use crate::peers::{ALICE, BOB, Peer, User, Waiting, broker_for_users, grant};
use crate::support::broker::Broker;
use crate::support::container::Container;
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(60);

/// `PIDFD_THREAD`, from Linux 6.9 on.
const OF_A_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(0x80);

fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How many descriptors the broker has.
fn open_in(broker: &Broker) -> usize {
    read_dir(format!("/proc/{}/fd", broker.pid())).unwrap().count()
}

/// Sends bytes with these descriptors at once.
fn send_with(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
}

/// Descriptors that are not of a process that can be a container.
fn kinds() -> Vec<OwnedFd> {
    let (reader, writer) = std::io::pipe().unwrap();
    let (one, other) = UnixStream::pair().unwrap();
    let open = |path: &str, flags| open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut kinds = vec![
        reader.into(),
        writer.into(),
        one.into(),
        other.into(),
        eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
        open("/", OFlags::DIRECTORY),
        open("/", OFlags::PATH),
        open("/proc/self", OFlags::DIRECTORY),
        open("/proc/self/ns/user", OFlags::RDONLY),
        pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap(),
    ];
    kinds.extend(pidfd_open(rustix::thread::gettid(), OF_A_THREAD));
    // A process that has ended, before and after it was waited for.
    let mut ended = Command::new("true").spawn().unwrap();
    let pidfd = || pidfd_open(Pid::from_child(&ended), PidfdFlags::empty()).unwrap();
    let (zombie, dead) = (pidfd(), pidfd());
    kinds.push(dead);
    ended.wait().unwrap();
    kinds.push(zombie);
    kinds
}

#[test]
fn none_stays_open_with_whatever_message_it_comes() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let container = Container::create();
    let pidfd = pidfd_open(Pid::from_raw(container.pid().cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
    starts(&world, &broker);
    let before = open_in(&broker);
    let kinds = kinds();
    let refused = |socket: &UnixStream| receive(socket).unwrap().0["refused"]["code"].is_u64();
    for kind in kinds.iter().map(|kind| kind.as_fd()) {
        // With the request; in place of the pidfd; with another request; with a report.
        let socket = connect(&broker);
        send(&socket, &request(), Some(kind));
        send(&socket, &found(), Some(pidfd.as_fd()));
        assert!(receive(&socket).unwrap().0["delivery"].is_object());
        drop(socket);
        let socket = connect(&broker);
        ask(&socket, &request(), &found(), Some(kind));
        assert!(refused(&socket));
        let socket = connect(&broker);
        send(&socket, &json!("status"), Some(kind));
        assert!(receive(&socket).unwrap().0["status"].is_object());
        let socket = connect(&broker);
        ask(&socket, &request(), &found(), Some(pidfd.as_fd()));
        assert!(receive(&socket).unwrap().0["delivery"].is_object());
        send(&socket, &json!({ "refused": { "code": 71, "message": "no", "hint": null } }), Some(kind));
        assert_eq!(receive(&socket).unwrap().0, json!("recorded"));
        // After the message, and before a second one in the same message.
        let socket = connect(&broker);
        ask(&socket, &request(), &found(), Some(pidfd.as_fd()));
        send_with(&socket, b"x", &[kind]);
        drop(socket);
        let socket = connect(&broker);
        send_with(&socket, b"OSB\x01\0", &[kind]);
        send_with(&socket, b"\0\0", &[kind]);
        closes(socket);
    }
    // More than there is room for, with a part of a message, and then nothing more.
    for count in [1, 2, 3, 13] {
        let descriptors: Vec<BorrowedFd<'_>> = kinds.iter().cycle().take(count).map(|kind| kind.as_fd()).collect();
        let mut socket = connect(&broker);
        send_with(&socket, b"OSB\x01\0", &descriptors);
        let _ = socket.write_all(b"\0\0");
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        closes(socket);
    }
    until(&format!("{} descriptors stay open, {before} before", open_in(&broker)), || open_in(&broker) <= before);
    starts(&world, &broker);
}

#[test]
fn one_that_cannot_be_closed_keeps_nobody_waiting_but_its_user() {
    let Some(world) = World::begin() else { return };
    let broker =
        broker_for_users(&world, &format!("{}{}[broker]\nconnections-per-user = 4\n", grant(ALICE), grant(BOB)));
    let Some(fuse) = Fuse::mount(broker.pid()) else { return };
    let file = fuse.open();
    let starts_of = |user: User| {
        let (peer, container) = (Peer::hook(&broker, user), Waiting::container(user, &user.map()));
        // A connection that is refused may be closed already.
        let pidfd = container.pidfd();
        for (message, descriptor) in [(request(), None), (found(), Some(pidfd.as_fd()))] {
            let _ = Outgoing::new(&message, descriptor, usize::MAX).unwrap().send(peer.socket.as_fd());
        }
        let answer = receive(&peer.socket);
        let is_served = answer.as_ref().is_some_and(|(answer, _)| answer["delivery"].is_object());
        if is_served {
            send(&peer.socket, &json!("attached"), None);
            assert_eq!(receive(&peer.socket).unwrap().0, json!("recorded"));
        }
        is_served
    };
    assert!(starts_of(ALICE));
    let before = open_in(&broker);

    // In place of the pidfd; as the second of a message; with a report; with what is no message.
    let container = Waiting::container(ALICE, &ALICE.map());
    let peers: Vec<Peer> = (0..4).map(|_| Peer::hook(&broker, ALICE)).collect();
    let socket = |index: usize| &peers[index].socket;
    ask(socket(0), &request(), &found(), Some(file.as_fd()));
    assert_eq!(receive(socket(0)).unwrap().0["refused"]["code"], 77);
    send_with(socket(1), b"OSB\x01\0", &[container.pidfd().as_fd()]);
    send_with(socket(1), b"\0\0", &[file.as_fd()]);
    ask(socket(2), &request(), &found(), Some(container.pidfd().as_fd()));
    assert!(receive(socket(2)).unwrap().0["delivery"].is_object());
    send(socket(2), &json!({ "refused": { "code": 71, "message": "no", "hint": null } }), Some(file.as_fd()));
    send_with(socket(3), b"GET / HTTP/1.1\r\n", &[file.as_fd()]);
    drop(peers);
    until("the broker has not closed them", || fuse.flushes() == 4);
    starts(&world, &broker);
    assert!(starts_of(BOB));
    assert!(!starts_of(ALICE), "connections whose descriptors are being closed do not count");

    drop(fuse);
    until("they stay open", || open_in(&broker) <= before);
    until("the connections still count", || starts_of(ALICE));
    drop(file);
}

/// Sockets that wait, when the last descriptor of them is closed, until their other side has received everything.
#[test]
fn one_that_nobody_has_received_keeps_nobody_waiting() {
    let Some(world) = World::begin() else { return };
    let broker = broker_for_users(&world, &grant(ALICE));
    let mut others = Vec::new();
    // More than there would be room for, in a message that is received, and in one that is not.
    for bytes in [&b"OSB\x01\0"[..], b"GET / HTTP/1.1\r\n"] {
        let (sockets, receivers): (Vec<TcpStream>, Vec<TcpStream>) = (0..5).map(|_| lingering()).unzip();
        let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|socket| socket.as_fd()).collect();
        // It gets them when no other process has them.
        broker.signal(Signal::STOP);
        let peer = Peer::hook(&broker, ALICE);
        send_with(&peer.socket, bytes, &descriptors);
        send_with(&peer.socket, bytes, &descriptors);
        drop((sockets, peer));
        others.extend(receivers);
        broker.signal(Signal::CONT);
    }
    starts(&world, &broker);
}

/// The same, of a connection that is not served.
#[test]
fn one_of_a_connection_beyond_the_limit_does_not_keep_the_broker_waiting() {
    let Some(world) = World::begin() else { return };
    let broker = broker_for_users(&world, &format!("{}[broker]\nconnections-per-user = 1\n", grant(ALICE)));
    let _served = Peer::hook(&broker, ALICE);
    let (socket, _receiver) = lingering();
    broker.signal(Signal::STOP);
    let peer = Peer::hook(&broker, ALICE);
    send_with(&peer.socket, b"OSB\x01\0", &[socket.as_fd()]);
    drop((socket, peer));
    broker.signal(Signal::CONT);
    starts(&world, &broker);
}

/// A socket whose last close waits, and its other side.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    set_socket_linger(&socket, Some(PATIENCE / 2)).unwrap();
    socket.set_nonblocking(true).unwrap();
    assert_eq!(fill(&socket).kind(), ErrorKind::WouldBlock);
    (socket, listener.accept().unwrap().0)
}

/// Fills the buffers of a connection.
fn fill(mut socket: &TcpStream) -> std::io::Error {
    loop {
        if let Err(full) = socket.write_all(&[0; 4096]) {
            return full;
        }
    }
}

#[test]
fn a_descriptor_between_the_parts_of_a_message_is_that_of_the_message() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let container = Container::create();
    let pidfd = pidfd_open(Pid::from_raw(container.pid().cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
    let (one, other) = UnixStream::pair().unwrap();
    Outgoing::new(&found(), None, usize::MAX).unwrap().send(one.as_fd()).unwrap();
    drop(one);
    let mut bytes = Vec::new();
    (&other).read_to_end(&mut bytes).unwrap();
    let socket = connect(&broker);
    send(&socket, &request(), None);
    (&socket).write_all(&bytes[..20]).unwrap();
    send_with(&socket, &bytes[20..], &[pidfd.as_fd()]);
    let (answer, mount): (Value, _) = receive(&socket).unwrap();
    assert!(answer["delivery"].is_object() && mount.is_some(), "{answer}");
}

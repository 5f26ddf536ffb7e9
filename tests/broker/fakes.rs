//! The hook against sockets that are no broker, or not one of ours.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oci_secrets::broker::protocol::{Answer, Found, Request};
use oci_secrets::broker::wire::{Incoming, Outgoing};
use oci_secrets::container::{FileName, Owner};
use oci_secrets::deliver::{DeliveryOptions, Frozen, Placeholders};
use oci_secrets::secret::Secret;
use oci_secrets::settings::Noswap;
use rustix::fs::{Mode, OFlags, open};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::support::broker::{hook, write_hook_settings};
use crate::support::container::Container;
use crate::support::host;
use crate::world::{code_and_lines, state};

/// The hook's deadline.
const DEADLINE: Duration = Duration::from_secs(2);

/// A directory with a socket, and the settings of a hook that asks there.
struct Fake {
    directory: TempDir,
    container: Container,
}

impl Fake {
    fn new() -> Option<Fake> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: not root");
            return None;
        }
        let fake = Fake { directory: tempfile::tempdir().unwrap(), container: Container::create() };
        let more = format!("[deliver]\ndeadline = \"{}s\"\n", DEADLINE.as_secs());
        write_hook_settings(&fake.directory.path().join("hook.toml"), &fake.socket(), &more);
        Some(fake)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("broker.sock")
    }

    /// What the hook prints, with the socket's path blanked. The container never has a secret.
    fn hook(&self) -> (i32, Vec<String>) {
        let begin = Instant::now();
        let output = host::run(&mut hook(&self.directory.path().join("hook.toml")), &state(&self.container));
        assert!(begin.elapsed() < DEADLINE + Duration::from_secs(5));
        assert!(!self.container.has_secrets());
        let (code, lines) = code_and_lines(&output);
        (code, lines.iter().map(|line| line.replace(self.socket().to_str().unwrap(), "SOCKET")).collect())
    }

    /// The same, while a thread serves the first connection.
    fn hook_against(&self, serve: impl FnOnce(UnixStream) + Send) -> (i32, Vec<String>) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || serve(listener.accept().unwrap().0));
            let seen = self.hook();
            std::fs::remove_file(self.socket()).unwrap();
            seen
        })
    }

    /// Requires this error of class 69, and this hint.
    fn requires(&self, (code, lines): (i32, Vec<String>), error: &str, hint: &str) {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let error = format!("oci-secrets-hook: error: container 4f2a9c1b77de: {error}");
        let hint = format!("oci-secrets-hook: hint: {hint}");
        assert_eq!((code, lines), (69, vec![error.as_str(), hint.as_str()]));
    }
}

const START: &str = "start it: `systemctl enable --now oci-secrets-broker.socket`; `socket` under [broker] in the settings names its socket";
const WHY: &str = "`journalctl -u oci-secrets-broker` shows why";
const OTHER: &str = "`socket` under [broker] in the settings may name something else's socket";

/// Receives the hook's request, and what it has found of the container.
fn request(socket: &UnixStream) -> (Request, Found) {
    (receive(socket), receive(socket))
}

fn receive<T: DeserializeOwned>(socket: &UnixStream) -> T {
    let mut incoming = Incoming::new(1 << 20);
    while let Err(error) = incoming.receive(socket.as_fd()) {
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    incoming.parse().unwrap().0
}

fn answer(socket: &UnixStream, answer: &Answer, descriptor: Option<BorrowedFd<'_>>) {
    Outgoing::new(answer, descriptor, 1 << 20).unwrap().send(socket.as_fd()).unwrap();
}

/// Waits for the end of the connection.
fn wait(mut socket: UnixStream) {
    let _ = socket.read_to_end(&mut Vec::new());
}

#[test]
fn an_absent_broker_is_reported() {
    let Some(fake) = Fake::new() else { return };
    fake.requires(fake.hook(), "cannot reach the broker at SOCKET: No such file (ENOENT)", START);
    drop(UnixListener::bind(fake.socket()).unwrap());
    fake.requires(fake.hook(), "cannot reach the broker at SOCKET: Connection refused (ECONNREFUSED)", START);
}

#[test]
fn a_broker_that_hangs_is_reported_at_the_deadline() {
    let Some(fake) = Fake::new() else { return };
    let silent = "the broker at SOCKET did not answer within 2 s";
    // It reads, or not; and it accepts nothing while its queue is full.
    fake.requires(fake.hook_against(wait), silent, WHY);
    fake.requires(fake.hook_against(|_socket| std::thread::sleep(DEADLINE * 2)), silent, WHY);
    let listener = UnixListener::bind(fake.socket()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _waiting = UnixStream::connect(fake.socket()).unwrap();
    fake.requires(fake.hook(), silent, WHY);
}

#[test]
fn a_broker_of_another_version_is_reported() {
    let Some(fake) = Fake::new() else { return };
    let seen = fake.hook_against(|mut socket| {
        request(&socket);
        socket.write_all(b"OSB\x02\0\0\0\0").unwrap();
    });
    let hint = "hook and broker must be of the same release: `systemctl restart oci-secrets-broker` after an update";
    fake.requires(seen, "the broker at SOCKET has version 2 of the protocol, expected 1", hint);
}

#[test]
fn a_broker_that_ends_is_reported() {
    let Some(fake) = Fake::new() else { return };
    let early = "the broker at SOCKET closed the connection before it had answered";
    fake.requires(fake.hook_against(drop), early, WHY);
    fake.requires(fake.hook_against(|socket| drop(request(&socket))), early, WHY);
    let seen = fake.hook_against(|mut socket| {
        request(&socket);
        socket.write_all(b"OSB\x01\0\0\0\x20{\"delivery\"").unwrap();
    });
    fake.requires(seen, early, WHY);
}

#[test]
fn something_else_that_answers_is_reported() {
    let Some(fake) = Fake::new() else { return };
    let says = |text: &'static [u8]| {
        fake.hook_against(move |mut socket| {
            request(&socket);
            socket.write_all(text).unwrap();
            wait(socket);
        })
    };
    let cannot = "cannot read the answer of the broker at SOCKET";
    fake.requires(says(b"HTTP/1.1 400 "), &format!("{cannot}: it is not a message of this protocol"), OTHER);
    let long = says(b"OSB\x01\xff\0\0\0");
    fake.requires(long, &format!("{cannot}: it is longer than 262144 bytes"), OTHER);
    let form = |text| {
        fake.requires(says(text), &format!("{cannot}: it is not in the documented form, at line 1 column 8"), OTHER)
    };
    form(b"OSB\x01\0\0\0\x08\"granted");
    form(b"OSB\x01\0\0\0\x08\"nothin\"");
}

/// A frozen tmpfs with one file.
fn frozen(name: &str, owner: u32) -> Frozen {
    let options =
        DeliveryOptions { owner: Owner { uid: owner, gid: owner }, label: None, root: None, noswap: Noswap::Prefer };
    let (name, secret): (FileName, _) = (name.parse().unwrap(), Secret::new(b"forged".to_vec()));
    Frozen::filled(&[(&name, &secret)], &options, Placeholders::default()).unwrap()
}

#[test]
fn what_is_no_delivery_is_not_attached() {
    let Some(fake) = Fake::new() else { return };
    let sends = |descriptor: Option<OwnedFd>| {
        let (code, lines) = fake.hook_against(move |socket| {
            request(&socket);
            let files = vec!["db".to_owned()];
            answer(&socket, &Answer::Delivery { files }, descriptor.as_ref().map(|descriptor| descriptor.as_fd()));
            request_end(socket);
        });
        (code, lines[0].strip_prefix("oci-secrets-hook: error: container 4f2a9c1b77de: ").unwrap().to_owned())
    };
    let (code, line) = sends(None);
    assert_eq!((code, line.contains("it is not in the documented form")), (69, true), "{line}");
    for path in ["/dev/null", "/", "/proc", "/etc/passwd"] {
        let descriptor = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let refusal = "refusing to attach what the broker has sent: it is not a tmpfs that is ro,nosuid,nodev,noexec";
        assert_eq!(sends(Some(descriptor)), (77, refusal.to_owned()), "{path}");
    }
    let other = "refusing to attach what the broker has sent: it does not hold exactly the files of /run/secrets";
    for frozen in [frozen("db", 0), frozen("other", 1000)] {
        let mount = frozen.mount().try_clone_to_owned().unwrap();
        assert_eq!(sends(Some(mount)), (77, other.to_owned()));
    }
    let (reader, _writer) = std::io::pipe().unwrap();
    let (code, line) = sends(Some(reader.into()));
    assert_eq!((code, line.contains("it is not a tmpfs")), (77, true), "{line}");
    drop(File::open("/dev/null"));
}

/// Confirms whatever the hook reports.
fn request_end(mut socket: UnixStream) {
    let mut incoming = Incoming::new(1 << 20);
    while incoming.receive(socket.as_fd()).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = socket.write_all(b"OSB\x01\0\0\0\x0a\"recorded\"");
}

#[test]
fn a_delivery_without_a_receipt_is_a_failure() {
    let Some(fake) = Fake::new() else { return };
    let listener = UnixListener::bind(fake.socket()).unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            request(&socket);
            let frozen = frozen("db", 1000);
            answer(&socket, &Answer::Delivery { files: vec!["db".to_owned()] }, Some(frozen.mount()));
            let mut incoming = Incoming::new(1 << 20);
            while incoming.receive(socket.as_fd()).is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        host::run(&mut hook(&fake.directory.path().join("hook.toml")), &state(&fake.container))
    });
    let (code, lines) = code_and_lines(&output);
    let error = "closed the connection before it had confirmed the record of the start";
    assert!(code == 69 && lines[0].ends_with(error), "{code}: {lines:?}");
}

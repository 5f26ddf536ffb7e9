//! Processes of users without privileges, in user namespaces as an engine without root makes them.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use oci_secrets::broker::wire::{Incoming, Outgoing};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::support::broker::Broker;
use crate::world::World;

/// Two users of the host, each with 1,000 subordinate ids. `/etc/passwd` does not have them: grants name them by number.
pub(crate) const ALICE: User = User { uid: 61_001, subordinate: 6_100_000 };
pub(crate) const BOB: User = User { uid: 61_002, subordinate: 6_200_000 };

/// The variable by which this program knows that it is the process of a user: the broker's socket.
const SOCKET: &str = "OCI_SECRETS_TEST_PEER";

#[derive(Clone, Copy)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) subordinate: u32,
}

impl User {
    /// The id map of a namespace of podman's: 0 is the user, and the subordinate ids follow.
    pub(crate) fn map(self) -> String {
        format!("0 {} 1\n1 {} 1000\n", self.uid, self.subordinate)
    }

    /// A program that runs as the user, with these options of unshare(1).
    fn program(self, unshare: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        let id = self.uid.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "unshare"]).args(unshare).arg("--");
        command
    }
}

/// A process that does nothing. It ends when this is dropped.
pub(crate) struct Waiting(Child);

impl Waiting {
    /// A container of the user: a process in its own mount and user namespaces, with this id map.
    pub(crate) fn container(user: User, map: &str) -> Waiting {
        let waiting = Waiting::new(&mut user.program(&["--user", "--mount"]));
        write_map(&waiting.0, map);
        waiting
    }

    /// A process of the user on the host.
    pub(crate) fn on_host(user: User) -> Waiting {
        Waiting::new(&mut user.program(&[]))
    }

    fn new(command: &mut Command) -> Waiting {
        let command = command.args(["sh", "-c", "echo; exec cat"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Waiting(child)
    }

    pub(crate) fn pidfd(&self) -> OwnedFd {
        pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty()).unwrap()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process of a user that has connected to the broker, and has passed its connection on to this test.
pub(crate) struct Peer {
    process: Child,
    pub(crate) socket: UnixStream,
    _control: UnixStream,
}

impl Peer {
    /// In a user namespace, as a hook of podman's without root.
    pub(crate) fn hook(broker: &Broker, user: User) -> Peer {
        Peer::in_namespace(broker, user, &user.map())
    }

    /// In a user namespace with this map.
    pub(crate) fn in_namespace(broker: &Broker, user: User, map: &str) -> Peer {
        let peer = Peer::start(broker, &mut user.program(&["--user"]));
        write_map(&peer.process, map);
        peer
    }

    /// On the host.
    pub(crate) fn on_host(broker: &Broker, user: User) -> Peer {
        Peer::start(broker, &mut user.program(&[]))
    }

    /// As a program that another user has, with the set-user-ID bit, and that this user runs in a namespace.
    pub(crate) fn set_user_id(broker: &Broker, owner: User, user: User) -> Peer {
        let mut command = Command::new("setpriv");
        let (owner_id, id) = (owner.uid.to_string(), user.uid.to_string());
        command.args(["--ruid", &id, "--euid", &owner_id, "--regid", &id, "--clear-groups", "unshare", "--user", "--"]);
        let peer = Peer::start(broker, &mut command);
        write_map(&peer.process, &format!("{}2000 {} 1\n", owner.map(), user.uid));
        peer
    }

    fn start(broker: &Broker, command: &mut Command) -> Peer {
        let (control, theirs) = UnixStream::pair().unwrap();
        // By descriptor: the user may not be able to reach its path.
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        fcntl_setfd(&program, FdFlags::empty()).unwrap();
        command.arg(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command.args(["--exact", "peers::connects_as_the_process_of_a_user"]).env(SOCKET, broker.socket());
        let process = command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).spawn().unwrap();
        let mut incoming = Incoming::new(100);
        while let Err(error) = incoming.receive(control.as_fd()) {
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "the process of the user has ended");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let (_, socket) = incoming.parse::<String>().unwrap();
        Peer { process, socket: socket.unwrap().into_owned().unwrap().into(), _control: control }
    }

    /// Ends the process; its connection stays open.
    pub(crate) fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What [`Peer`] runs: connects, passes the connection on, and waits for the end of the test. Without the variable it does nothing.
#[test]
fn connects_as_the_process_of_a_user() {
    let Some(path) = std::env::var_os(SOCKET) else { return };
    let control = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let socket = UnixStream::connect(path).unwrap();
    Outgoing::new(&"connected", Some(socket.as_fd()), 100).unwrap().send(control.as_fd()).unwrap();
    let _ = (&control).read(&mut [0]);
}

fn write_map(process: &Child, map: &str) {
    for file in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{file}", process.id()), map).unwrap();
    }
}

/// A broker to which all users may connect, as to the socket of `oci-secrets-broker-users.socket`. Its settings end with these lines.
pub(crate) fn broker_for_users(world: &World, more: &str) -> Broker {
    let settings = fs::read_to_string(world.host.settings()).unwrap() + more;
    world.host.write("settings.toml", settings.as_bytes(), 0o644);
    let broker = Broker::start(&world.host);
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set(broker.socket().parent().unwrap(), 0o711);
    set(broker.socket(), 0o666);
    broker
}

/// A grant of the secret to a user.
pub(crate) fn grant(user: User) -> String {
    format!("\n[[grant]]\nreferences = ['op://AgentVault/*']\nto = {{ user = '{}' }}\nowner = 'allow'\n", user.uid)
}

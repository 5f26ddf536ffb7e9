//! A connection to the broker: the hook's for a start, or a command's for one request.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno as Raw;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use super::client_error::BrokerError;
use super::client_error::Moment;
use super::live::summary::Summary;
use super::protocol::{
    Answer, Found, MESSAGE_BYTES_MAX, Order, REQUEST_BYTES_MAX, Receipt, Refusal, Report, Request, Selection,
    StartRequest, Status, Withdrawn, file_names,
};
use super::revoked::Revocation;
use super::wire::{Descriptor, Incoming, Outgoing, WireError};
use crate::container::{FileName, Pod};
use crate::fault::AnyFault;
use crate::harden;
use crate::settings::BrokerAddress;

/// A user without an id in this user namespace, as the kernel shows it: in a namespace of its own, so does root of the host.
const OVERFLOW_UID: u32 = 65534;

/// A connection to the broker.
pub struct Connection {
    socket: OwnedFd,
    broker: BrokerAddress,
    deadline: Instant,
    within: Duration,
}

/// The answer to the request of a start.
pub enum Reply {
    /// There is no request for this container.
    Nothing,
    /// The start is refused, and recorded.
    Refused(Refusal),
    /// What to attach.
    Delivery(Delivery),
}

/// A delivery that is to be attached.
pub struct Delivery {
    /// The files that it is said to hold.
    pub files: Vec<FileName>,
    /// Its mount.
    pub mount: OwnedFd,
    /// Where to report what becomes of it.
    pub pending: Pending,
}

/// A start that was requested, and for which the broker needs to know the container.
pub struct Requested(Connection);

/// A start that has not been reported.
pub struct Pending(Connection);

impl Connection {
    /// Connects to the broker. Everything must be done within this time.
    ///
    /// # Errors
    /// There is none, it does not accept, or something that is not root's listens.
    pub fn open(broker: impl Into<BrokerAddress>, within: Duration) -> Result<Connection, BrokerError> {
        let (broker, deadline) = (broker.into(), Instant::now() + within);
        let failed = |errno: Raw| match errno {
            Raw::AGAIN => BrokerError::Silent { broker: broker.clone(), within },
            errno => BrokerError::Unreachable { broker: broker.clone(), errno: errno.into() },
        };
        let address = SocketAddrUnix::new(&broker.socket).map_err(failed)?;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
        // It also ends a wait for a broker that accepts no connections.
        set_socket_timeout(&socket, Timeout::Send, Some(within)).map_err(failed)?;
        connect(&socket, &address).map_err(failed)?;
        let credentials = getsockopt(&socket, PeerCredentials);
        let unknown =
            |errno: nix::errno::Errno| BrokerError::Unreachable { broker: broker.clone(), errno: errno.into() };
        let uid = credentials.map_err(unknown)?.uid();
        if uid != 0 && (uid != OVERFLOW_UID || harden::is_initial_user_namespace()) {
            return Err(BrokerError::NotRoot { broker, uid });
        }
        Ok(Connection { socket, broker, deadline, within })
    }

    /// Requests a start, which the broker begins to resolve.
    ///
    /// # Errors
    /// The broker takes no request.
    pub fn request(self, request: StartRequest) -> Result<Requested, BrokerError> {
        let milliseconds = u64::try_from(self.remaining().as_millis()).unwrap_or(u64::MAX);
        let request = Request::Start(Box::new(StartRequest { milliseconds, ..request }));
        self.send(&request, None, REQUEST_BYTES_MAX, Moment::Answer)?;
        Ok(Requested(self))
    }

    /// Asks for the pod of a container, which the broker returns to root alone.
    ///
    /// # Errors
    /// The broker does not answer, or not as it should.
    pub fn pod(self, container: &str) -> Result<(Option<Pod>, Option<Refusal>), BrokerError> {
        let request = Request::Pod { container: container.to_owned() };
        self.send(&request, None, REQUEST_BYTES_MAX, Moment::Answer)?;
        match self.receive(Moment::Answer)? {
            (Answer::Pod { pod, unknown }, _) => Ok((pod.map(|pod| *pod), unknown)),
            _ => Err(self.not_as_documented()),
        }
    }

    /// Asks for the state of the broker, which it returns to root alone.
    ///
    /// # Errors
    /// The broker does not answer, or not as it should.
    pub fn status(self) -> Result<Status, BrokerError> {
        self.send(&Request::Status, None, REQUEST_BYTES_MAX, Moment::Answer)?;
        match self.receive(Moment::Answer)? {
            (Answer::Status(status), _) => Ok(*status),
            _ => Err(self.not_as_documented()),
        }
    }

    /// Makes the broker forget all values that it keeps, which it does for root alone.
    ///
    /// # Errors
    /// The broker does not answer, or not as it should.
    pub fn forget(self) -> Result<(), BrokerError> {
        self.send(&Request::Forget, None, REQUEST_BYTES_MAX, Moment::Answer)?;
        match self.receive(Moment::Answer)? {
            (Answer::Nothing, _) => Ok(()),
            _ => Err(self.not_as_documented()),
        }
    }

    /// Asks for the running containers that the broker updates, after an update of each if `refresh` is true. Returns at most
    /// [`super::protocol::RUNNING_MAX`] of them, and their number.
    ///
    /// # Errors
    /// As for [`Connection::status`].
    pub fn running(self, selection: Selection, refresh: bool) -> Result<(Vec<Summary>, usize), BrokerError> {
        let request = if refresh { Request::Refresh(selection) } else { Request::Running(selection) };
        self.send(&request, None, REQUEST_BYTES_MAX, Moment::Answer)?;
        match self.receive(Moment::Answer)? {
            (Answer::Running { containers, count }, _) => Ok((containers, count)),
            _ => Err(self.not_as_documented()),
        }
    }

    /// Revokes something. It waits until the files are removed.
    ///
    /// # Errors
    /// As for [`Connection::status`]; or the broker refuses.
    pub fn revoke(self, order: Order) -> Result<Withdrawn, AnyFault> {
        self.send(&Request::Revoke(order), None, REQUEST_BYTES_MAX, Moment::Answer)?;
        match self.receive(Moment::Answer)? {
            (Answer::Withdrawn(withdrawn), _) => Ok(*withdrawn),
            (Answer::Refused(refusal), _) => Err(refusal.into()),
            _ => Err(self.not_as_documented().into()),
        }
    }

    /// What is revoked, and how much; with an order, what that allows again.
    ///
    /// # Errors
    /// As for [`Connection::revoke`].
    pub fn revocations(self, end: Option<Order>) -> Result<(Vec<Revocation>, usize), AnyFault> {
        let request = end.map_or(Request::Revocations, Request::EndRevocation);
        self.send(&request, None, REQUEST_BYTES_MAX, Moment::Answer)?;
        match self.receive(Moment::Answer)? {
            (Answer::Revocations { revocations, count }, _) => Ok((revocations, count)),
            (Answer::Refused(refusal), _) => Err(refusal.into()),
            _ => Err(self.not_as_documented().into()),
        }
    }

    fn send(
        &self,
        message: &impl Serialize,
        descriptor: Option<BorrowedFd<'_>>,
        max: usize,
        moment: Moment,
    ) -> Result<(), BrokerError> {
        let outgoing = Outgoing::new(message, descriptor, max);
        let mut outgoing = outgoing.map_err(|source| BrokerError::Request { broker: self.broker.clone(), source })?;
        // A broker that refuses the connection, or a request, closes it at once; what it has said can still be received.
        match self.wait(PollFlags::OUT, moment, |socket| outgoing.send(socket)) {
            Err(BrokerError::Ended { moment: Moment::Answer, .. }) => Ok(()),
            sent => sent,
        }
    }

    fn receive<T: DeserializeOwned>(&self, moment: Moment) -> Result<(T, Option<Descriptor>), BrokerError> {
        let mut incoming = Incoming::new(MESSAGE_BYTES_MAX);
        self.wait(PollFlags::IN, moment, |socket| incoming.receive(socket))?;
        incoming.parse().map_err(|source| BrokerError::Answer { broker: self.broker.clone(), source })
    }

    /// Calls `step` whenever the socket is ready, until it is done.
    fn wait(
        &self,
        ready: PollFlags,
        moment: Moment,
        mut step: impl FnMut(BorrowedFd<'_>) -> io::Result<()>,
    ) -> Result<(), BrokerError> {
        loop {
            let error = match step(self.socket.as_fd()) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if error.kind() != ErrorKind::WouldBlock {
                return Err(self.broken(&error, moment));
            }
            let remaining = Timespec::try_from(self.remaining()).unwrap_or_default();
            match poll(&mut [PollFd::new(&self.socket, ready)], Some(&remaining)) {
                Ok(0) => return Err(BrokerError::Silent { broker: self.broker.clone(), within: self.within }),
                Ok(_) | Err(Raw::INTR) => {}
                Err(errno) => return Err(self.broken(&errno.into(), moment)),
            }
        }
    }

    fn broken(&self, error: &io::Error, moment: Moment) -> BrokerError {
        let broker = self.broker.clone();
        match WireError::of(error) {
            Some(WireError::Version { found }) => BrokerError::Version { broker, found: *found },
            Some(source) => BrokerError::Answer { broker, source: source.clone() },
            None => BrokerError::Ended { broker, moment },
        }
    }

    fn not_as_documented(&self) -> BrokerError {
        BrokerError::Answer { broker: self.broker.clone(), source: WireError::Form { line: 1, column: 1 } }
    }

    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl Requested {
    /// Sends what was found of the container, and receives the answer.
    ///
    /// # Errors
    /// The broker does not answer, or not as it should.
    pub fn ask(self, found: &Found, process: Option<BorrowedFd<'_>>) -> Result<Reply, BrokerError> {
        let Requested(connection) = self;
        connection.send(found, process, MESSAGE_BYTES_MAX, Moment::Answer)?;
        let (answer, mount) = connection.receive(Moment::Answer)?;
        let mount = mount.and_then(Descriptor::into_owned);
        Ok(match (answer, mount) {
            (Answer::Nothing, _) => Reply::Nothing,
            (Answer::Refused(refusal), _) => Reply::Refused(refusal),
            (Answer::Delivery { files }, Some(mount)) => match file_names(&files) {
                Some(files) => Reply::Delivery(Delivery { files, mount, pending: Pending(connection) }),
                None => return Err(connection.not_as_documented()),
            },
            _ => return Err(connection.not_as_documented()),
        })
    }
}

impl Pending {
    /// Reports that the delivery is attached, or why not, and waits until the record is written.
    ///
    /// Returns why the start is refused all the same.
    ///
    /// # Errors
    /// The broker does not confirm it.
    pub fn report(self, refused: Option<Refusal>) -> Result<Result<(), Refusal>, BrokerError> {
        let report = refused.map_or(Report::Attached, Report::Refused);
        let sent = self.0.send(&report, None, MESSAGE_BYTES_MAX, Moment::Receipt);
        let (receipt, _) = self.0.receive(Moment::Receipt)?;
        match receipt {
            // A report that was not sent is not what was recorded.
            Receipt::Recorded => sent.map(Ok),
            Receipt::Refused(refusal) => Ok(Err(refusal)),
        }
    }
}

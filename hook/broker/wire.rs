//! Messages on a stream socket: a head of eight bytes, then JSON.
//!
//! The head is `OSB`, the version of the protocol, and the length of what follows, as four bytes with the most significant one first. At
//! most one descriptor comes with a message. Both programs use these types: one waits with `poll`, the other with its runtime.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::limits::Slot;
use super::protocol::VERSION;
use crate::json;

const NAME: [u8; 3] = *b"OSB";
const HEAD_BYTES: usize = 8;

/// The most descriptors that the kernel lets a process send at once, `SCM_MAX_FD`.
const DESCRIPTORS_MAX: usize = 253;

/// How many bytes are received at once.
const CHUNK_BYTES: usize = 16 << 10;

/// A message that is being received.
pub struct Incoming {
    bytes: Vec<u8>,
    max: usize,
    descriptor: Descriptor,
}

impl Incoming {
    /// A message of at most this many bytes.
    pub fn new(max: usize) -> Incoming {
        Incoming { bytes: Vec::new(), max, descriptor: Descriptor { descriptors: Vec::new(), slot: None } }
    }

    /// The same, over a connection with this slot.
    pub fn of(slot: &Arc<Slot>, max: usize) -> Incoming {
        let mut incoming = Incoming::new(max);
        incoming.descriptor.slot = Some(Arc::clone(slot));
        incoming
    }

    /// The length of the message, once its head has arrived.
    ///
    /// # Errors
    /// It is of another version, too long, or no message.
    pub fn length(&self) -> Result<Option<usize>, WireError> {
        let Some((head, _)) = self.bytes.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [a, b, c, version, length @ ..] = *head;
        if [a, b, c] != NAME {
            return Err(WireError::NotOurs);
        }
        if version != VERSION {
            return Err(WireError::Version { found: version });
        }
        match usize::try_from(u32::from_be_bytes(length)) {
            Ok(length) if length <= self.max => Ok(Some(length)),
            _ => Err(WireError::TooLong { limit: self.max }),
        }
    }

    /// Receives what has arrived, without waiting, until the message is complete.
    ///
    /// # Errors
    /// `WouldBlock` until more arrives; `UnexpectedEof` at the end of the connection; `InvalidData` with a [`WireError`].
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.receive_head(socket)?;
        let size = HEAD_BYTES + self.length()?.unwrap_or_default();
        while self.bytes.len() < size {
            self.receive_chunk(socket, (size - self.bytes.len()).min(CHUNK_BYTES))?;
        }
        Ok(())
    }

    /// The same, until its head is complete.
    ///
    /// # Errors
    /// As for [`Incoming::receive`].
    pub fn receive_head(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while self.length()?.is_none() {
            self.receive_chunk(socket, HEAD_BYTES - self.bytes.len())?;
        }
        Ok(())
    }

    fn receive_chunk(&mut self, socket: BorrowedFd<'_>, size: usize) -> io::Result<()> {
        let old = self.bytes.len();
        self.bytes.resize(old + size, 0);
        let received = {
            let chunk = self.bytes.get_mut(old..).unwrap_or_default();
            // Room for all that can come: what has no room, the kernel would close here.
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let received = recvmsg(socket, &mut [IoSliceMut::new(chunk)], &mut ancillary, flags);
            let descriptors = ancillary.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            });
            self.descriptor.descriptors.extend(descriptors.flatten());
            let has_lost = received.as_ref().is_ok_and(|received| received.flags.contains(ReturnFlags::CTRUNC));
            if has_lost || self.descriptor.descriptors.len() > 1 {
                return Err(WireError::Descriptors.into());
            }
            received.map(|received| received.bytes)
        };
        self.bytes.truncate(old + received.as_ref().copied().unwrap_or_default());
        match received {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The complete message, and the descriptor that came with it.
    ///
    /// # Errors
    /// It is not in the form of this type.
    pub fn parse<T: DeserializeOwned>(self) -> Result<(T, Option<Descriptor>), WireError> {
        let body = self.bytes.get(HEAD_BYTES..).unwrap_or_default();
        let message =
            json::from_slice(body).map_err(|error| WireError::Form { line: error.line(), column: error.column() })?;
        Ok((message, Some(self.descriptor).filter(|descriptor| descriptor.borrow().is_some())))
    }
}

/// The descriptor that another process has sent, of whatever kind, or several, which are refused.
///
/// What is dropped is closed with the connection, if that is one of the broker's.
#[derive(Debug)]
pub struct Descriptor {
    descriptors: Vec<OwnedFd>,
    slot: Option<Arc<Slot>>,
}

impl Descriptor {
    /// Takes it, for a caller that knows what it is.
    pub fn into_owned(mut self) -> Option<OwnedFd> {
        self.descriptors.pop()
    }

    /// It, to find out what it is.
    pub fn borrow(&self) -> Option<BorrowedFd<'_>> {
        self.descriptors.first().map(|descriptor| descriptor.as_fd())
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            self.descriptors.drain(..).for_each(|descriptor| slot.close_later(descriptor));
        }
    }
}

/// A message that is being sent.
pub struct Outgoing<'d> {
    bytes: Zeroizing<Vec<u8>>,
    sent: usize,
    descriptor: Option<BorrowedFd<'d>>,
}

impl<'d> Outgoing<'d> {
    /// Encodes a message of at most this many bytes, with a descriptor.
    ///
    /// # Errors
    /// It would be longer.
    pub fn new(message: &impl Serialize, descriptor: Option<BorrowedFd<'d>>, max: usize) -> Result<Self, WireError> {
        let too_long = WireError::TooLong { limit: max };
        let mut bytes = Zeroizing::new(head(0).to_vec());
        if serde_json::to_writer(&mut *bytes, message).is_err() {
            // A path that is not UTF-8.
            return Err(WireError::Form { line: 0, column: 0 });
        }
        let length = bytes.len() - HEAD_BYTES;
        let Some(length) = u32::try_from(length).ok().filter(|_| length <= max) else { return Err(too_long) };
        if let Some(start) = bytes.first_chunk_mut() {
            *start = head(length);
        }
        Ok(Outgoing { bytes, sent: 0, descriptor })
    }

    /// The head of a message without content, by which a peer with another version finds out ours.
    pub fn version() -> Outgoing<'static> {
        Outgoing { bytes: Zeroizing::new(head(0).to_vec()), sent: 0, descriptor: None }
    }

    /// Sends what the socket takes, without waiting, until everything is sent.
    ///
    /// # Errors
    /// `WouldBlock` until it takes more; or the connection is broken.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while self.sent < self.bytes.len() {
            let rest = IoSlice::new(self.bytes.get(self.sent..).unwrap_or_default());
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let descriptors = self.descriptor.map(|descriptor| [descriptor]);
            if let Some(descriptors) = &descriptors {
                ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            match sendmsg(socket, &[rest], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => (self.sent, self.descriptor) = (self.sent + sent, None),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

fn head(length: u32) -> [u8; HEAD_BYTES] {
    let ([a, b, c], [d, e, f, g]) = (NAME, length.to_be_bytes());
    [a, b, c, VERSION, d, e, f, g]
}

/// Whether the other side has closed its connection, or has sent something that was not expected.
pub fn is_over(socket: BorrowedFd<'_>) -> bool {
    let mut byte = [0];
    let peeked = rustix::net::recv(socket.as_fd(), &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    !matches!(peeked, Err(Errno::AGAIN))
}

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum WireError {
    /// Another protocol.
    #[error("it is not a message of this protocol")]
    NotOurs,
    /// Another version.
    #[error("it is a message of version {found} of the protocol, expected {VERSION}")]
    Version { found: u8 },
    /// More than the limit.
    #[error("it is longer than {limit} bytes")]
    TooLong { limit: usize },
    /// More than one descriptor.
    #[error("more than one descriptor came with it")]
    Descriptors,
    /// Not the JSON that is expected.
    #[error("it is not in the documented form, at line {line} column {column}")]
    Form { line: usize, column: usize },
}

impl From<WireError> for io::Error {
    fn from(error: WireError) -> io::Error {
        io::Error::new(ErrorKind::InvalidData, error)
    }
}

impl WireError {
    /// The error in what [`Incoming::receive`] returns.
    pub fn of(error: &io::Error) -> Option<&WireError> {
        error.get_ref()?.downcast_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::broker::protocol::Receipt;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    fn error_of(bytes: &[u8]) -> WireError {
        let (mut one, other) = pair();
        one.write_all(bytes).unwrap();
        let error = Incoming::new(1000).receive(other.as_fd()).unwrap_err();
        WireError::of(&error).unwrap_or_else(|| panic!("{error:?}")).clone()
    }

    #[test]
    fn a_message_arrives_in_whatever_parts_with_its_descriptor() {
        let (one, other) = pair();
        let null = File::open("/dev/null").unwrap();
        let mut outgoing = Outgoing::new(&Receipt::Recorded, Some(null.as_fd()), 1000).unwrap();
        let mut incoming = Incoming::new(1000);
        assert_eq!(incoming.receive(other.as_fd()).unwrap_err().kind(), ErrorKind::WouldBlock);
        outgoing.send(one.as_fd()).unwrap();
        incoming.receive(other.as_fd()).unwrap();
        let (receipt, descriptor) = incoming.parse::<Receipt>().unwrap();
        assert!(matches!(receipt, Receipt::Recorded) && descriptor.is_some());

        let bytes = Outgoing::new(&Receipt::Recorded, None, 1000).unwrap().bytes;
        let mut incoming = Incoming::new(1000);
        for (index, byte) in bytes.iter().enumerate() {
            (&one).write_all(&[*byte]).unwrap();
            let received = incoming.receive(other.as_fd());
            assert_eq!(received.is_ok(), index + 1 == bytes.len());
        }
    }

    #[test]
    fn other_bytes_are_refused_by_their_head() {
        assert_eq!(error_of(b"GET / HTTP/1.1\r\n"), WireError::NotOurs);
        assert_eq!(error_of(b"OSB\x07\0\0\0\0"), WireError::Version { found: 7 });
        assert_eq!(error_of(b"OSB\x01\0\0\x03\xe9"), WireError::TooLong { limit: 1000 });
        assert_eq!(error_of(b"OSB\x01\xff\xff\xff\xff"), WireError::TooLong { limit: 1000 });
    }

    #[test]
    fn a_connection_that_ends_early_is_noticed() {
        let (mut one, other) = pair();
        one.write_all(b"OSB\x01\0\0\0\x09\"rec").unwrap();
        drop(one);
        let error = Incoming::new(1000).receive(other.as_fd()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert!(is_over(other.as_fd()));
    }

    #[test]
    fn a_second_descriptor_is_refused() {
        let (one, other) = pair();
        let null = File::open("/dev/null").unwrap();
        let descriptors = [null.as_fd(), null.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&one, &[IoSlice::new(b"OSB")], &mut ancillary, SendFlags::empty()).unwrap();
        let error = Incoming::new(1000).receive(other.as_fd()).unwrap_err();
        assert_eq!(WireError::of(&error), Some(&WireError::Descriptors));
    }

    #[test]
    fn what_is_too_long_is_not_sent() {
        let refused = Outgoing::new(&"x".repeat(1000), None, 1000).err();
        assert_eq!(refused, Some(WireError::TooLong { limit: 1000 }));
    }
}

//! The system log: the journal where systemd runs, else `/dev/log`, else none.
//!
//! Some runtimes discard a hook's standard error, so every message is logged, too. A container start never waits for the log: what
//! a log does not accept at once is not sent again. For messages that is the end ([`log()`]), for records the caller has another
//! place ([`record`]).
//!
//! The journal's protocol is written here because libsystemd 0.7 waits for a busy journal without a limit and knows neither
//! namespaces nor another socket; and it would add nom, hmac, sha2 and uuid to the hook.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// [The journal's own protocol](https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where syslog listens, by [RFC 3164](https://www.rfc-editor.org/rfc/rfc3164).
pub const SYSLOG: &str = "/dev/log";
/// The facility `authpriv`, which ordinary users cannot read.
const FACILITY: u8 = 10;

/// rsyslog cuts longer messages without a notice, unless its settings raise this.
const SYSLOG_BYTES_MAX: usize = 8 * 1024;
/// journald ignores an entry with more than 1,024 fields; it adds about thirty of its own.
const FIELDS_MAX: usize = 512;

/// The severity of a line, as RFC 3164 numbers it.
#[derive(Clone, Copy)]
pub enum Severity {
    /// A container did not start.
    Error = 3,
    /// A container started, but an operator should look at it.
    Warning = 4,
    /// A record.
    Info = 6,
}

/// A field by which the journal finds a line: `journalctl OCI_SECRETS_CONTAINER=…`. Other logs do not have it.
pub struct Field<'a> {
    /// In capitals, beginning with `OCI_SECRETS_`.
    pub name: &'static str,
    /// One name may have several values, each in a field of its own.
    pub value: &'a str,
}

/// The field that names a container by its whole id.
pub const CONTAINER: &str = "OCI_SECRETS_CONTAINER";

/// Logs one line of a program. It is lost if no log accepts it.
pub fn log(severity: Severity, program: &str, line: &str, fields: &[Field<'_>]) {
    if send_to_journal(JOURNAL, &journal_entry(severity, program, line, fields)).is_err() {
        let _ = send(SYSLOG, &syslog_entry(FACILITY, severity, program, line));
    }
}

/// Logs one record. Only the first 512 fields reach the journal; the line reaches it whole.
///
/// # Errors
/// If neither the journal nor syslog accepts the whole line at once.
pub fn record(program: &str, line: &str, fields: &[Field<'_>]) -> io::Result<()> {
    let fields = fields.get(..FIELDS_MAX).unwrap_or(fields);
    let Err(error) = send_to_journal(JOURNAL, &journal_entry(Severity::Info, program, line, fields)) else {
        return Ok(());
    };
    let entry = syslog_entry(FACILITY, Severity::Info, program, line);
    if entry.len() > SYSLOG_BYTES_MAX {
        return Err(error);
    }
    send(SYSLOG, &entry)
}

/// The log that [`record`] would use: the journal or [`SYSLOG`].
pub fn listener() -> Option<&'static str> {
    let listens = |socket: &&str| UnixDatagram::unbound().and_then(|sender| sender.connect(socket)).is_ok();
    [JOURNAL, SYSLOG].into_iter().find(listens).map(|socket| if socket == JOURNAL { "the journal" } else { SYSLOG })
}

/// Sends one line to a namespace of the journal.
///
/// # Errors
/// If no journal of this name runs, or it does not accept the line at once.
pub fn log_to_namespace(namespace: &str, program: &str, line: &str) -> io::Result<()> {
    send_to_journal(&journal_of(namespace), &journal_entry(Severity::Warning, program, line, &[]))
}

/// Sends one line to a facility of syslog, given by its number.
///
/// # Errors
/// If no log listens, or it does not accept the line at once.
pub fn log_to_facility(facility: u8, program: &str, line: &str) -> io::Result<()> {
    send(SYSLOG, &syslog_entry(facility, Severity::Warning, program, line))
}

/// Tests whether a journal of this namespace runs.
///
/// # Errors
/// If none does.
pub fn find_namespace(namespace: &str) -> io::Result<()> {
    UnixDatagram::unbound()?.connect(journal_of(namespace))
}

/// Tests whether a log listens on [`SYSLOG`].
///
/// # Errors
/// If none does.
pub fn find() -> io::Result<()> {
    UnixDatagram::unbound()?.connect(SYSLOG)
}

fn journal_of(namespace: &str) -> String {
    format!("/run/systemd/journal.{namespace}/socket")
}

fn connect(socket: &str) -> io::Result<UnixDatagram> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.connect(socket)?;
    Ok(sender)
}

fn send(socket: &str, datagram: &[u8]) -> io::Result<()> {
    connect(socket)?.send(datagram).map(drop)
}

/// Sends an entry as a datagram, or, if it is larger than the kernel accepts, as the descriptor of a sealed file in memory.
fn send_to_journal(socket: &str, entry: &[u8]) -> io::Result<()> {
    let sender = connect(socket)?;
    match sender.send(entry).map_err(|error| (Errno::from_io_error(&error), error)) {
        Ok(_) => Ok(()),
        Err((Some(Errno::MSGSIZE | Errno::NOBUFS), _)) => send_descriptor(&sender, &sealed(entry)?),
        Err((_, error)) => Err(error),
    }
}

fn send_descriptor(sender: &UnixDatagram, file: &File) -> io::Result<()> {
    let descriptors = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(sender, &[IoSlice::new(&[])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A file in memory that cannot change any more: the journal maps it only then.
fn sealed(content: &[u8]) -> io::Result<File> {
    let name = "oci-secrets-record";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let descriptor = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        created => created?,
    };
    let mut file = File::from(descriptor);
    file.write_all(content)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
    Ok(file)
}

/// One entry. External text is sent with its length, so that nothing in it is parsed as another field.
fn journal_entry(severity: Severity, program: &str, line: &str, fields: &[Field<'_>]) -> Vec<u8> {
    let mut head = String::new();
    let _ = writeln!(head, "PRIORITY={}\nSYSLOG_FACILITY={FACILITY}\nSYSLOG_IDENTIFIER={program}", severity as u8);
    let mut entry = head.into_bytes();
    for Field { name, value } in fields.iter().chain([&Field { name: "MESSAGE", value: line }]) {
        let length = u64::try_from(value.len()).unwrap_or_default();
        entry.extend([name.as_bytes(), b"\n", &length.to_le_bytes(), value.as_bytes(), b"\n"].concat());
    }
    entry
}

fn syslog_entry(facility: u8, severity: Severity, program: &str, line: &str) -> Vec<u8> {
    format!("<{}>{program}[{}]: {line}", facility * 8 + severity as u8, std::process::id()).into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Read as _, Seek as _};

    use rustix::fs::fcntl_get_seals;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    #[test]
    fn a_line_cannot_forge_a_field() {
        let fields = [Field { name: CONTAINER, value: "a\nb" }];
        let entry = journal_entry(Severity::Error, "oci-secrets-hook", "x\nPRIORITY=0", &fields);
        let head = b"PRIORITY=3\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=oci-secrets-hook\nOCI_SECRETS_CONTAINER\n";
        let message = [&b"a\nb\nMESSAGE\n"[..], &12u64.to_le_bytes(), b"x\nPRIORITY=0\n"].concat();
        assert_eq!(entry, [&head[..], &3u64.to_le_bytes(), &message].concat());
    }

    #[test]
    fn an_entry_that_no_datagram_holds_is_sent_as_a_sealed_file() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let journal = UnixDatagram::bind(&socket).unwrap();
        let entry = vec![b'x'; 4 << 20];
        send_to_journal(socket.to_str().unwrap(), &entry).unwrap();

        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 16];
        let received =
            recvmsg(&journal, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::DONTWAIT).unwrap();
        assert_eq!(received.bytes, 0);
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let mut file = File::from(descriptor.unwrap());
        let seals = fcntl_get_seals(&file).unwrap();
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL));
        let mut content = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
        assert!(content == entry);
    }

    #[test]
    fn a_log_that_is_busy_or_missing_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let path = socket.to_str().unwrap();
        assert!(send(path, b"x").is_err());
        let _journal = UnixDatagram::bind(&socket).unwrap();
        assert!((0..100_000).any(|_| send_to_journal(path, b"x").is_err()), "its queue never fills");
    }
}

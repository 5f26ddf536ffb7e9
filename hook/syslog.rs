//! The system log: the journal where systemd runs, else `/dev/log`, else nowhere.
//!
//! Some runtimes throw a hook's standard error away, so every line goes here too. A container start never waits for the log or
//! fails because of it: a line that is not taken at once is lost.

use std::fmt::Write as _;
use std::io;
use std::os::unix::net::UnixDatagram;

/// [The journal's own protocol](https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where syslog listens, by [RFC 3164](https://www.rfc-editor.org/rfc/rfc3164).
pub const SYSLOG: &str = "/dev/log";
/// The facility `authpriv`, kept from readers who are not trusted.
const FACILITY: u8 = 10;

/// The weight of a line, as RFC 3164 numbers it.
#[derive(Clone, Copy)]
pub enum Severity {
    /// A container did not start.
    Error = 3,
    /// A container started, but someone should look.
    Warning = 4,
    /// What happened.
    Info = 6,
}

/// What the journal can find a line by besides its text: `journalctl OCI_SECRETS_CONTAINER=…`. Other logs do not have it.
pub struct Field<'a> {
    /// In capitals, beginning with `OCI_SECRETS_`.
    pub name: &'static str,
    /// The same name may come several times, with a value each.
    pub value: &'a str,
}

/// The field that names a container by its whole id.
pub const CONTAINER: &str = "OCI_SECRETS_CONTAINER";

/// Logs one line. `program` is who says it.
pub fn log(severity: Severity, program: &str, line: &str, fields: &[Field<'_>]) {
    let severity = severity as u8;
    if send(JOURNAL, &journal_entry(severity, program, line, fields)).is_err() {
        let _ = send(SYSLOG, &syslog_entry(FACILITY, severity, program, line));
    }
}

/// Gives one line to a namespace of the journal; unlike [`log`], it tells when nobody takes it.
///
/// # Errors
/// If no journal of this name runs, or it is too busy.
pub fn log_to_namespace(namespace: &str, program: &str, line: &str) -> io::Result<()> {
    let entry = journal_entry(Severity::Warning as u8, program, line, &[]);
    send(&journal_of(namespace), &entry)
}

/// Gives one line to a facility of syslog, by its number; it tells when nobody takes it, too.
///
/// # Errors
/// If no log listens, or it is too busy.
pub fn log_to_facility(facility: u8, program: &str, line: &str) -> io::Result<()> {
    send(SYSLOG, &syslog_entry(facility, Severity::Warning as u8, program, line))
}

/// Whether a journal of this namespace runs.
///
/// # Errors
/// If none does.
pub fn find_namespace(namespace: &str) -> io::Result<()> {
    UnixDatagram::unbound()?.connect(journal_of(namespace))
}

/// Whether a log listens where syslog does.
///
/// # Errors
/// If none does.
pub fn find() -> io::Result<()> {
    UnixDatagram::unbound()?.connect(SYSLOG)
}

fn journal_of(namespace: &str) -> String {
    format!("/run/systemd/journal.{namespace}/socket")
}

fn send(socket: &str, datagram: &[u8]) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to(datagram, socket).map(drop)
}

/// One entry; what comes from outside is given with its length, so that nothing in it can pass for another field.
fn journal_entry(severity: u8, program: &str, line: &str, fields: &[Field<'_>]) -> Vec<u8> {
    let mut head = String::new();
    let _ = writeln!(head, "PRIORITY={severity}\nSYSLOG_FACILITY={FACILITY}\nSYSLOG_IDENTIFIER={program}");
    let mut entry = head.into_bytes();
    for Field { name, value } in fields.iter().chain([&Field { name: "MESSAGE", value: line }]) {
        let length = u64::try_from(value.len()).unwrap_or_default();
        entry.extend([name.as_bytes(), b"\n", &length.to_le_bytes(), value.as_bytes(), b"\n"].concat());
    }
    entry
}

fn syslog_entry(facility: u8, severity: u8, program: &str, line: &str) -> Vec<u8> {
    format!("<{}>{program}[{}]: {line}", facility * 8 + severity, std::process::id()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_forge_a_field() {
        let fields = [Field { name: CONTAINER, value: "a\nb" }];
        let entry = journal_entry(3, "oci-secrets-hook", "x\nPRIORITY=0", &fields);
        let head = b"PRIORITY=3\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=oci-secrets-hook\nOCI_SECRETS_CONTAINER\n";
        let message = [&b"a\nb\nMESSAGE\n"[..], &12u64.to_le_bytes(), b"x\nPRIORITY=0\n"].concat();
        assert_eq!(entry, [&head[..], &3u64.to_le_bytes(), &message].concat());
    }
}

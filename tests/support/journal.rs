//! The system log of this mount namespace: every line that a hook sends to the journal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

const SOCKET: &str = "/run/systemd/journal/socket";

/// Listens on the journal's socket.
pub(crate) struct Journal {
    lines: Arc<Mutex<Vec<Line>>>,
}

/// One entry of the hook.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The syslog severity: 3 is an error, 4 a warning, 6 information.
    pub(crate) priority: String,
    pub(crate) program: String,
    pub(crate) message: String,
}

impl Journal {
    /// Listens until the process ends, always ready: the hook does not wait for a full socket.
    pub(crate) fn listen() -> Journal {
        fs::create_dir_all("/run/systemd/journal").unwrap();
        let socket = UnixDatagram::bind(SOCKET).unwrap();
        // Every user can write to the log.
        fs::set_permissions(SOCKET, fs::Permissions::from_mode(0o666)).unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&lines);
        thread::spawn(move || {
            let mut datagram = vec![0; 1 << 18];
            while let Ok(length) = socket.recv(&mut datagram) {
                received.lock().unwrap().push(Line::parse(&datagram[..length]));
            }
        });
        Journal { lines }
    }

    /// All lines so far that contain this text.
    pub(crate) fn lines(&self, text: &str) -> Vec<Line> {
        self.wait_until_read();
        self.lines.lock().unwrap().iter().filter(|line| line.message.contains(text)).cloned().collect()
    }

    /// The audit records of the starts of a container, by the name of its items.
    pub(crate) fn records(&self, name: &str) -> Vec<Value> {
        let lines = self.lines(name);
        let records = lines.iter().filter_map(|line| serde_json::from_str::<Value>(&line.message).ok());
        records.filter(|record| record.is_object()).collect()
    }

    /// Sends a mark and waits until it is read: datagrams keep their order, so all earlier ones have been read then.
    fn wait_until_read(&self) {
        let mark = format!("mark {}", fastrand::u64(..));
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(mark.as_bytes(), SOCKET).unwrap();
        while !self.lines.lock().unwrap().iter().any(|line| line.message == mark) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Line {
    /// Parses an entry whose message is the last field, after its length in eight bytes. Other datagrams are plain messages.
    fn parse(datagram: &[u8]) -> Line {
        const MESSAGE: &[u8] = b"\nMESSAGE\n";
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let Some(end) = datagram.windows(MESSAGE.len()).position(|window| window == MESSAGE) else {
            return Line { priority: String::new(), program: String::new(), message: text(datagram) };
        };
        let (head, message) = (text(&datagram[..end]), &datagram[end + MESSAGE.len() + 8..]);
        let field = |name: &str| {
            let value = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().to_owned()
        };
        Line {
            priority: field("PRIORITY"),
            program: field("SYSLOG_IDENTIFIER"),
            message: text(message.trim_ascii_end()),
        }
    }
}

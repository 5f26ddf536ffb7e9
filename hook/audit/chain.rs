//! A file in which every line has the hash of the line before it.
//!
//! Each line also has a sequence number. Text that is not part of the chain, such as an interrupted write or lines of a program
//! without the chain, stays in the file, and the next line is a *mark* with its hash.
//!
//! Writers are short-lived, so all state is in the file. Each reads the last line and appends its own under the file's lock, with one
//! write. A renamed file is no longer written to; the new one begins with the hash of the last line of the previous one.
//!
//! A chain does not reveal that its end was truncated, or that root rewrote all of it. To detect that, store the hash of the last line
//! elsewhere. The system log contains every line.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::AuditError;
use super::link::{Hash, Link};
use super::record::SCHEMA;
use super::tail::{End, Tail};
use crate::settings::file;

/// The average pause between attempts to lock. It varies, so that writers do not retry at the same moment.
const PAUSE: Duration = Duration::from_millis(1);

/// A chain to append to.
pub struct Chain {
    path: PathBuf,
    file: File,
}

/// A line about the chain itself.
#[derive(Serialize)]
struct Mark {
    schema: u8,
    time: String,
    mark: What,
    /// The hash of the text before the mark that is not part of the chain, without its last newline: the whole file if a chain begins,
    /// the text after the last line if it resumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    over: Option<Hash>,
}

/// The kind of a mark.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum What {
    /// The chain begins.
    Begins,
    /// The text before it is not part of the chain.
    Resumes,
}

/// A record with its link.
#[derive(Serialize)]
struct Linked<'a, T> {
    #[serde(flatten)]
    record: &'a T,
    chain: Link,
}

impl Chain {
    /// Opens the file, or creates it with mode 0600. It is not locked.
    ///
    /// # Errors
    /// If the file cannot be opened, or other users can write to it.
    pub fn open(path: &Path) -> Result<Chain, AuditError> {
        let file = file::append(path).map_err(|source| AuditError::Open { source })?;
        Ok(Chain { path: path.to_owned(), file })
    }

    /// Appends a record, a JSON object without a key `chain`. Returns the lines that were written: a mark, if one was needed, and the
    /// record. [`Chain::sync`] makes them survive a power loss.
    ///
    /// # Errors
    /// If another process holds the file's lock for too long, or the file cannot be read or written. The file may then end
    /// with a part of a line, which the next writer marks.
    pub fn append(&mut self, record: &impl Serialize, patience: Duration) -> Result<Vec<String>, AuditError> {
        let until = Instant::now() + patience;
        self.lock(until, patience)?;
        let outcome = self.append_locked(record, until);
        let _ = self.file.unlock();
        outcome
    }

    /// Syncs all lines to disk.
    ///
    /// # Errors
    /// If fdatasync(2) fails.
    pub fn sync(&self) -> Result<(), AuditError> {
        self.file.sync_data().map_err(self.cannot_write())
    }

    /// Locks the file that is at the path now.
    fn lock(&mut self, until: Instant, patience: Duration) -> Result<(), AuditError> {
        loop {
            match self.file.try_lock() {
                Ok(()) if self.is_in_place().map_err(self.cannot_write())? => return Ok(()),
                Ok(()) => *self = Chain::open(&self.path)?,
                Err(TryLockError::WouldBlock) => thread::sleep(PAUSE.mul_f64(0.5 + fastrand::f64())),
                Err(TryLockError::Error(error)) => return Err(self.cannot_write()(error)),
            }
            if Instant::now() >= until {
                return Err(AuditError::Busy { path: self.path.clone(), patience });
            }
        }
    }

    /// Whether the file was neither renamed nor removed since it was opened.
    fn is_in_place(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match fs::metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn append_locked(&mut self, record: &impl Serialize, until: Instant) -> Result<Vec<String>, AuditError> {
        let End { tail, is_whole } = End::of(&self.file).map_err(self.cannot_read())?;
        let (mark, mut next) = match tail {
            Tail::Chained { sequence, hash, over } => (
                over.map(|over| (What::Resumes, Some(over))),
                Link { sequence: sequence.saturating_add(1), previous: Some(hash) },
            ),
            Tail::Foreign { over } => (Some((What::Begins, Some(over))), Link { sequence: 1, previous: None }),
            Tail::Empty => (Some((What::Begins, None)), Link { sequence: 1, previous: self.last_of_before(until) }),
        };
        let mut lines = Vec::with_capacity(2);
        if let Some((mark, over)) = mark {
            let mark = Mark { schema: SCHEMA, time: jiff::Timestamp::now().to_string(), mark, over };
            lines.push(line(&mark, &mut next)?);
        }
        lines.push(line(record, &mut next)?);

        let mut bytes = if is_whole { Vec::new() } else { vec![b'\n'] };
        for line in &lines {
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
        }
        self.file.write_all(&bytes).map_err(self.cannot_write())?;
        Ok(lines)
    }

    /// The hash of the last line of the previous file: the newest that was renamed to `<name>.…` or `<name>-…`. It is read under its lock:
    /// a writer that opened it before the rename has either written already, or will detect the rename.
    fn last_of_before(&self, until: Instant) -> Option<Hash> {
        let file = newest_renamed(&self.path)?;
        while file.try_lock_shared().is_err() {
            if Instant::now() >= until {
                return None;
            }
            thread::sleep(PAUSE);
        }
        match End::of(&file).ok()?.tail {
            Tail::Chained { hash, .. } => Some(hash),
            Tail::Empty | Tail::Foreign { .. } => None,
        }
    }

    fn cannot_read(&self) -> impl Fn(io::Error) -> AuditError + use<> {
        let path = self.path.clone();
        move |error| AuditError::Read { path: path.clone(), errno: error.into() }
    }

    fn cannot_write(&self) -> impl Fn(io::Error) -> AuditError + use<> {
        let path = self.path.clone();
        move |error| AuditError::Write { path: path.clone(), errno: error.into() }
    }
}

/// The record as a line without its newline, with the link `next`, which becomes the link of the line after it.
fn line(record: &impl Serialize, next: &mut Link) -> Result<String, AuditError> {
    let linked = Linked { record, chain: next.clone() };
    let line = serde_json::to_string(&linked).map_err(|source| AuditError::Encode { source })?;
    *next = Link { sequence: next.sequence.saturating_add(1), previous: Some(Hash::of(line.as_bytes())) };
    Ok(line)
}

fn newest_renamed(path: &Path) -> Option<File> {
    let name = path.file_name()?.as_encoded_bytes();
    let is_renamed = |other: &[u8]| matches!(other.strip_prefix(name), Some([b'.' | b'-', ..]));
    let entries = fs::read_dir(path.parent()?).ok()?.filter_map(Result::ok);
    let renamed = entries.filter(|entry| is_renamed(entry.file_name().as_encoded_bytes()));
    let newest = renamed.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).max()?;
    file::open_plain(&newest.1).ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn audit_file() -> (TempDir, PathBuf) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("audit.jsonl");
        (directory, path)
    }

    fn append(path: &Path, number: u64) -> Vec<String> {
        Chain::open(path).unwrap().append(&json!({ "number": number }), PATIENCE).unwrap()
    }

    fn lines(path: &Path) -> Vec<String> {
        fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    fn value(line: &str) -> Value {
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn continues_a_line_with_the_highest_sequence_number() {
        let (_directory, path) = audit_file();
        fs::write(&path, format!("{{\"chain\":{{\"sequence\":{}}}}}\n", u64::MAX)).unwrap();
        assert_eq!(value(&append(&path, 1)[0])["chain"]["sequence"], u64::MAX);
    }

    #[test]
    fn every_line_has_the_hash_of_the_previous_line() {
        let (_directory, path) = audit_file();
        let written: Vec<String> = (1..=3).flat_map(|number| append(&path, number)).collect();
        let lines = lines(&path);
        assert_eq!(lines, written);
        assert_eq!(lines.len(), 4);
        assert_eq!(
            (&value(&lines[0])["mark"], &value(&lines[0])["chain"]),
            (&json!("begins"), &json!({"sequence": 1}))
        );
        for (index, pair) in lines.windows(2).enumerate() {
            let hash = Hash::of(pair[0].as_bytes()).to_string();
            assert_eq!(value(&pair[1])["chain"], json!({ "sequence": index + 2, "previous": hash }));
        }
    }

    #[test]
    fn a_mark_follows_an_interrupted_write() {
        let (_directory, path) = audit_file();
        append(&path, 1);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"{\"schema\":1,\"ti").unwrap();
        append(&path, 2);
        let lines = lines(&path);
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[2], "{\"schema\":1,\"ti");
        let mark = value(&lines[3]);
        assert_eq!(
            (&mark["mark"], &mark["over"]),
            (&json!("resumes"), &json!(Hash::of(lines[2].as_bytes()).to_string()))
        );
        assert_eq!(mark["chain"], json!({ "sequence": 3, "previous": Hash::of(lines[1].as_bytes()).to_string() }));
        assert_eq!(value(&lines[4])["chain"]["sequence"], 4);
    }

    #[test]
    fn a_mark_follows_lines_without_the_chain() {
        let (_directory, path) = audit_file();
        fs::write(&path, "{\"schema\":1}\n{\"schema\":1}\n").unwrap();
        append(&path, 1);
        let mark = value(&lines(&path)[2]);
        assert_eq!(mark["mark"], "begins");
        assert_eq!(mark["over"], json!(Hash::of(b"{\"schema\":1}\n{\"schema\":1}").to_string()));
        assert_eq!(mark["chain"], json!({ "sequence": 1 }));
    }

    #[test]
    fn a_new_file_continues_the_previous_one() {
        let (directory, path) = audit_file();
        let mut opened_before = Chain::open(&path).unwrap();
        let last = append(&path, 1).pop().unwrap();
        fs::write(directory.path().join("audit.json"), "").unwrap();
        fs::rename(&path, directory.path().join("audit.jsonl.1")).unwrap();
        opened_before.append(&json!({ "number": 2 }), PATIENCE).unwrap();
        let lines = lines(&path);
        assert_eq!(lines.len(), 2, "a writer that opened the file before it was renamed writes to the new one");
        assert_eq!(
            value(&lines[0])["chain"],
            json!({ "sequence": 1, "previous": Hash::of(last.as_bytes()).to_string() })
        );
    }

    #[test]
    fn waiting_for_the_lock_times_out() {
        let (_directory, path) = audit_file();
        append(&path, 1);
        let holder = File::open(&path).unwrap();
        holder.lock().unwrap();
        let refused = Chain::open(&path).unwrap().append(&json!({}), Duration::from_millis(20));
        assert!(matches!(refused, Err(AuditError::Busy { .. })));
        drop(holder);
        append(&path, 2);
        assert_eq!(lines(&path).len(), 3);
    }

    #[test]
    fn concurrent_writers_and_rotations_produce_one_chain() {
        const WRITERS: u64 = 16;
        const LINES: u64 = 25;
        let (directory, path) = audit_file();
        let rotated = |rotation| directory.path().join(format!("audit.jsonl-{rotation}"));
        let rotations: Vec<u64> = (0..LINES).filter(|number| number % 5 == 4).collect();
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (path, rotated, rotations) = (&path, &rotated, &rotations);
                scope.spawn(move || {
                    for number in 0..LINES {
                        append(path, writer * LINES + number);
                        if writer == 0 && rotations.contains(&number) {
                            fs::rename(path, rotated(number + 10)).unwrap();
                        }
                    }
                });
            }
        });
        let mut previous = None;
        let mut numbers = Vec::new();
        let files = rotations.iter().map(|number| rotated(number + 10)).chain([path.clone()]);
        for path in files.filter(|path| path.exists()) {
            for (index, line) in lines(&path).iter().enumerate() {
                let link = Link::of(line.as_bytes()).unwrap();
                assert_eq!(link, Link { sequence: index as u64 + 1, previous }, "{}", path.display());
                previous = Some(Hash::of(line.as_bytes()));
                numbers.extend(value(line)["number"].as_u64());
            }
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..WRITERS * LINES).collect::<Vec<_>>());
    }
}

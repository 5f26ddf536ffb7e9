//! Finds changes to a chain since it was written.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::chain::What;
use super::link::{Hash, Link};
use super::tail::without_newline;

/// A line number, from 1.
type Line = u64;

/// The state of a verification of one or more files.
#[derive(Default)]
pub struct Verification {
    /// The hash of the last line so far, which the first line of the next file must contain.
    end: Option<Hash>,
    /// The hash that the operator stored, and the number of the line that has it, once found.
    sought: Option<(Hash, Option<u64>)>,
    /// How many lines were read.
    lines: u64,
}

/// The verdict on one file.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// The number of lines of the chain in it.
    pub lines: u64,
    /// Whether it continues the previous file; absent if there is none, or the file has no hash of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continues: Option<bool>,
    /// Changes of the chain.
    pub problems: Vec<Finding<Problem>>,
    /// Unchanged text that is not part of the chain.
    pub notes: Vec<Finding<Note>>,
}

/// A finding at a line.
#[derive(Debug, PartialEq, Serialize)]
pub struct Finding<T> {
    /// The line.
    pub line: Line,
    /// The problem or note.
    #[serde(flatten)]
    pub what: T,
}

/// A change of a chain.
#[derive(Debug, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "problem", rename_all = "kebab-case")]
pub enum Problem {
    /// Lines are missing.
    #[error("lines removed before this one: {count}")]
    Removed {
        /// Their number.
        count: u64,
    },
    /// A line was moved.
    #[error("out of order: expected sequence number {expected}, found {found}")]
    Reordered {
        /// The sequence number that its position requires.
        expected: u64,
        /// Its sequence number.
        found: u64,
    },
    /// The next line does not have its hash.
    #[error("this line, or line {next}, which has its hash, was changed")]
    Changed {
        /// The next line.
        next: Line,
    },
    /// Text is not part of the chain, and no mark follows it.
    #[error("{} is not part of the chain", lines(*.line, *.last))]
    Foreign {
        /// Its first line.
        #[serde(skip)]
        line: Line,
        /// Its last line.
        last: Line,
    },
    /// Text before a mark was changed.
    #[error("the text before this mark was changed or removed")]
    ClosedOff,
    /// The file does not continue the previous one.
    #[error("the file does not continue the previous one")]
    NotContinued,
    /// No line has the hash that the operator stored.
    #[error("no line up to this one has the given hash: lines were removed from the end, or the file was rewritten")]
    NoHead,
}

/// A note.
#[derive(Debug, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "note", rename_all = "kebab-case")]
pub enum Note {
    /// Text before a mark: lines without the chain, or an interrupted write.
    #[error("{} is not part of the chain, as marked by line {mark}: an interrupted write, or lines without the chain", lines(*.line, *.last))]
    ClosedOff {
        /// Its first line.
        #[serde(skip)]
        line: Line,
        /// Its last line.
        last: Line,
        /// The mark.
        mark: Line,
    },
    /// A line is repeated. A command or journal may receive a line repeated.
    #[error("it repeats line {before}")]
    Twice {
        /// The first one.
        before: Line,
    },
    /// The file names no previous one.
    #[error("the file does not name a previous one")]
    Unjoined,
}

fn lines(first: Line, last: Line) -> String {
    if first == last { "this line".to_owned() } else { format!("the text from this line to line {last}") }
}

/// The part of a line that concerns the chain.
#[derive(Deserialize)]
struct Entry {
    chain: Link,
    mark: Option<What>,
    over: Option<Hash>,
}

/// The beginning of text that is not part of the chain.
struct Foreign {
    line: Line,
    offset: usize,
}

impl Verification {
    /// Starts a verification that searches for the line with this hash.
    pub fn with_head(head: Option<Hash>) -> Verification {
        Verification { sought: head.map(|head| (head, None)), ..Verification::default() }
    }

    /// The hash of the last line.
    pub fn head(&self) -> Option<Hash> {
        self.end
    }

    /// The number of lines after the one with the given hash.
    pub fn lines_after_head(&self) -> Option<u64> {
        self.sought.and_then(|(_, found)| found).map(|found| self.lines - found)
    }

    /// Reads the next file, oldest first. `is_last` marks the last one.
    pub fn read(&mut self, content: &[u8], is_last: bool) -> Verdict {
        let mut verdict = Verdict::default();
        let entries: Vec<(&[u8], Option<Entry>)> = content.split_inclusive(|byte| *byte == b'\n').map(entry).collect();
        let numbers: BTreeSet<u64> =
            entries.iter().filter_map(|(_, entry)| Some(entry.as_ref()?.chain.sequence)).collect();
        let mut expected: Option<(Line, Link)> = None;
        let mut foreign: Option<Foreign> = None;
        let (mut line, mut offset) = (0, 0);
        for (bytes, entry) in entries {
            line += 1;
            match entry {
                None => {
                    foreign.get_or_insert(Foreign { line, offset });
                }
                Some(entry) => {
                    let hash = Hash::of(without_newline(bytes));
                    if let Some((before, next)) = &expected
                        && foreign.is_none()
                        && next.previous == Some(hash)
                    {
                        verdict.note(line, Note::Twice { before: *before });
                        offset += bytes.len();
                        continue;
                    }
                    let between = foreign.take().map(|foreign| (foreign.line, content.get(foreign.offset..offset)));
                    let before = content.get(..offset).unwrap_or_default();
                    verdict.look_between(line, &entry, between, before);
                    match &expected {
                        Some((before, link)) if entry.mark != Some(What::Begins) => {
                            verdict.look_at_link(line, &entry.chain, *before, link, &numbers);
                        }
                        Some(_) => {}
                        None => self.look_at_beginning(line, &entry, &mut verdict),
                    }
                    expected =
                        Some((line, Link { sequence: entry.chain.sequence.saturating_add(1), previous: Some(hash) }));
                    verdict.lines += 1;
                    self.passed(hash);
                }
            }
            offset += bytes.len();
        }
        if let Some(Foreign { line: first, .. }) = foreign {
            verdict.problem(first, Problem::Foreign { line: first, last: line });
        }
        if is_last && matches!(self.sought, Some((_, None))) {
            verdict.problem(line, Problem::NoHead);
        }
        verdict
    }

    fn passed(&mut self, hash: Hash) {
        self.lines += 1;
        self.end = Some(hash);
        if let Some((sought, found)) = &mut self.sought
            && *sought == hash
        {
            *found = Some(self.lines);
        }
    }

    fn look_at_beginning(&self, line: Line, entry: &Entry, verdict: &mut Verdict) {
        match (self.end, entry.chain.previous) {
            _ if entry.chain.sequence != 1 => {
                verdict.problem(line, Problem::Removed { count: entry.chain.sequence.saturating_sub(1) });
            }
            _ if entry.mark != Some(What::Begins) => verdict.problem(line, Problem::Removed { count: 1 }),
            (Some(end), Some(previous)) => {
                verdict.continues = Some(end == previous);
                if end != previous {
                    verdict.problem(line, Problem::NotContinued);
                }
            }
            (Some(_), None) => verdict.note(line, Note::Unjoined),
            (None, _) => {}
        }
    }
}

impl Verdict {
    /// Compares text that is not part of the chain with the mark after it.
    fn look_between(&mut self, line: Line, entry: &Entry, between: Option<(Line, Option<&[u8]>)>, before: &[u8]) {
        let hash = match (entry.mark, &between) {
            (Some(What::Begins), _) if !before.is_empty() => Some(Hash::of(without_newline(before))),
            (_, Some((_, bytes))) => Some(Hash::of(without_newline(bytes.unwrap_or_default()))),
            (_, None) => None,
        };
        let mark = line;
        match (hash, entry.over, between) {
            (None, None, _) => {}
            (Some(_), None, Some((line, _))) => self.problem(line, Problem::Foreign { line, last: mark - 1 }),
            (Some(hash), Some(over), Some((line, _))) if hash == over => {
                self.note(line, Note::ClosedOff { line, last: mark - 1, mark });
            }
            (Some(hash), Some(over), None) if hash == over => {}
            _ => self.problem(line, Problem::ClosedOff),
        }
    }

    fn look_at_link(&mut self, line: Line, found: &Link, before: Line, expected: &Link, numbers: &BTreeSet<u64>) {
        let (expected_number, found_number) = (expected.sequence, found.sequence);
        if found_number > expected_number {
            let there = numbers.range(expected_number..found_number).count() as u64;
            match found_number - expected_number - there {
                0 => self.problem(line, Problem::Reordered { expected: expected_number, found: found_number }),
                count => self.problem(line, Problem::Removed { count }),
            }
        } else if found_number < expected_number {
            self.problem(line, Problem::Reordered { expected: expected_number, found: found_number });
        } else if found.previous != expected.previous {
            self.problem(before, Problem::Changed { next: line });
        }
    }

    fn problem(&mut self, line: Line, what: Problem) {
        self.problems.push(Finding { line, what });
    }

    fn note(&mut self, line: Line, what: Note) {
        self.notes.push(Finding { line, what });
    }
}

/// A line, and its part that concerns the chain if it is whole.
fn entry(bytes: &[u8]) -> (&[u8], Option<Entry>) {
    (bytes, bytes.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::audit::Chain;

    /// A file with this many records, and its path.
    fn written(records: u64) -> (TempDir, std::path::PathBuf) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("audit.jsonl");
        for number in 0..records {
            let record = json!({ "number": number, "text": "x".repeat(fastrand::usize(..20)) });
            Chain::open(&path).unwrap().append(&record, Duration::from_secs(60)).unwrap();
        }
        (directory, path)
    }

    fn verify(content: &[u8], head: Option<Hash>) -> Verdict {
        Verification::with_head(head).read(content, true)
    }

    fn problems(content: &[u8]) -> Vec<String> {
        let problems = verify(content, None).problems;
        problems.iter().map(|finding| format!("{}: {}", finding.line, finding.what)).collect()
    }

    fn lines(content: &[u8]) -> Vec<&[u8]> {
        content.split_inclusive(|byte| *byte == b'\n').collect()
    }

    /// A random file: lines from before the chain, interrupted writes, and records.
    fn random() -> Vec<u8> {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("audit.jsonl");
        fs::write(&path, [&b""[..], b"{\"old\":1}\n", b"torn"][fastrand::usize(..3)]).unwrap();
        for number in 0..fastrand::u64(3..8) {
            if fastrand::u8(..4) == 0 {
                let mut content = fs::read(&path).unwrap();
                content.extend_from_slice(format!("{{\"torn\":{number}").as_bytes());
                fs::write(&path, content).unwrap();
            }
            Chain::open(&path).unwrap().append(&json!({ "number": number }), Duration::from_secs(60)).unwrap();
        }
        fs::read(&path).unwrap()
    }

    #[test]
    fn finds_every_change_of_any_file() {
        for _ in 0..10 {
            let seed = fastrand::get_seed();
            let content = random();
            let mut intact = Verification::default();
            let verdict = intact.read(&content, true);
            assert_eq!(verdict.problems, [], "seed {seed}");
            let intact_notes = verdict.notes.len();
            let head = intact.head();
            let is_found = |content: &[u8]| !verify(content, head).problems.is_empty();
            assert!(!is_found(&content));
            for offset in 0..content.len() {
                let mut changed = content.clone();
                changed[offset] ^= 1 << fastrand::u8(..8);
                assert!(is_found(&changed), "byte {offset}, seed {seed}: {}", String::from_utf8_lossy(&changed));
                changed.remove(offset);
                assert!(is_found(&changed), "byte {offset} removed, seed {seed}");
            }
            let lines = lines(&content);
            for one in 0..lines.len() {
                let mut without = lines.clone();
                without.remove(one);
                assert!(is_found(&without.concat()), "line {one} removed, seed {seed}");
                let mut repeated = lines.clone();
                repeated.insert(one, lines[one]);
                let verdict = verify(&repeated.concat(), head);
                let is_reported = !verdict.problems.is_empty() || verdict.notes.len() > intact_notes;
                assert!(is_reported, "line {one} repeated, seed {seed}");
                for other in 0..one {
                    let mut swapped = lines.clone();
                    swapped.swap(one, other);
                    assert!(is_found(&swapped.concat()), "lines {one} and {other} swapped, seed {seed}");
                }
            }
        }
    }

    #[test]
    fn reports_the_line_and_the_kind_of_change() {
        let (_directory, path) = written(6);
        let content = fs::read(&path).unwrap();
        let lines = lines(&content);
        assert_eq!(problems(&content), [""; 0]);
        let mut changed = lines.clone();
        changed.splice(2..4, []);
        assert_eq!(problems(&changed.concat()), ["3: lines removed before this one: 2"]);
        changed.splice(0..1, []);
        assert_eq!(problems(&changed.concat())[0], "1: lines removed before this one: 1");
        let mut swapped = lines.clone();
        swapped.swap(2, 3);
        assert_eq!(
            problems(&swapped.concat())[..2],
            [
                "3: out of order: expected sequence number 3, found 4",
                "4: out of order: expected sequence number 5, found 3"
            ]
        );
        let text = String::from_utf8(content.clone()).unwrap().replace("\"number\":2", "\"number\":9");
        assert_eq!(problems(text.as_bytes()), ["4: this line, or line 5, which has its hash, was changed"]);
        let mut repeated = lines.clone();
        repeated.splice(3..3, [lines[2], lines[2]]);
        assert_eq!(problems(&repeated.concat()), [""; 0]);
        let notes = verify(&repeated.concat(), None)
            .notes
            .iter()
            .map(|note| (note.line, note.what.to_string()))
            .collect::<Vec<_>>();
        assert_eq!(notes, [(4, "it repeats line 3".to_owned()), (5, "it repeats line 3".to_owned())]);
        let foreign = [&content[..], b"{\"number\":7}\nx\n"].concat();
        assert_eq!(problems(&foreign), ["8: the text from this line to line 9 is not part of the chain"]);
    }

    #[test]
    fn a_stored_hash_reveals_a_truncated_end() {
        let (_directory, path) = written(3);
        let head = {
            let mut verification = Verification::default();
            verification.read(&fs::read(&path).unwrap(), true);
            verification.head()
        };
        Chain::open(&path).unwrap().append(&json!({}), Duration::from_secs(60)).unwrap();
        let content = fs::read(&path).unwrap();
        let mut verification = Verification::with_head(head);
        assert_eq!(verification.read(&content, true).problems, []);
        assert_eq!(verification.lines_after_head(), Some(1));
        let shorter = lines(&content)[..3].concat();
        assert_eq!(verify(&shorter, None).problems, [], "the file alone does not reveal it");
        assert_eq!(verify(&shorter, head).problems, [Finding { line: 3, what: Problem::NoHead }]);
    }

    #[test]
    fn verifies_consecutive_files() {
        let (directory, path) = written(2);
        let before = fs::read(&path).unwrap();
        fs::rename(&path, directory.path().join("audit.jsonl.1")).unwrap();
        Chain::open(&path).unwrap().append(&json!({}), Duration::from_secs(60)).unwrap();
        let after = fs::read(&path).unwrap();
        let verdict = |before: &[u8]| {
            let mut verification = Verification::default();
            verification.read(before, false);
            verification.read(&after, true)
        };
        assert_eq!(verdict(&before).continues, Some(true));
        assert_eq!(verdict(&lines(&before)[..2].concat()).problems, [Finding { line: 1, what: Problem::NotContinued }]);
    }
}

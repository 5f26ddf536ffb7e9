//! The end of a file, which determines what the next writer appends.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::link::{Hash, Hasher, Link};

/// The first window: larger than most lines.
const WINDOW_BYTES: u64 = 16 * 1024;
/// The limit of the search for a line of the chain. No line is longer: the record of a start has at most 1 MiB, and one of
/// break-glass lists the secrets of a sealed file, which has at most 16 MiB with their values.
const WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How a file ends.
#[derive(Debug, PartialEq)]
pub(super) enum Tail {
    /// It is empty.
    Empty,
    /// It ends with a line of a chain, possibly followed by other text: `over` is the hash of that text.
    Chained { sequence: u64, hash: Hash, over: Option<Hash> },
    /// It has no line of a chain: `over` is the hash of the whole file.
    Foreign { over: Hash },
}

/// How a file ends, and whether its last line is whole: an interrupted write leaves no newline.
pub(super) struct End {
    pub(super) tail: Tail,
    pub(super) is_whole: bool,
}

impl End {
    pub(super) fn of(file: &File) -> io::Result<End> {
        let length = file.metadata()?.len();
        if length == 0 {
            return Ok(End { tail: Tail::Empty, is_whole: true });
        }
        let mut window = WINDOW_BYTES;
        loop {
            let begin = length.saturating_sub(window);
            let bytes = read(file, begin, length)?;
            let is_whole = bytes.ends_with(b"\n");
            if let Some(tail) = last_linked(&bytes, begin == 0) {
                return Ok(End { tail, is_whole });
            }
            if begin == 0 || window >= WINDOW_BYTES_MAX {
                return Ok(End { tail: Tail::Foreign { over: hash_of_file(file, length)? }, is_whole });
            }
            window *= 4;
        }
    }
}

/// Whether the last line ends with a newline. After an interrupted write, or during a write, it does not.
pub(super) fn is_whole(file: &File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let Some(last) = length.checked_sub(1) else { return Ok(true) };
    Ok(read(file, last, length)? == b"\n")
}

/// Text between lines of a chain is hashed without its last newline, which may have been added after an interrupted write.
pub(super) fn without_newline(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(b"\n").unwrap_or(bytes)
}

fn read(file: &File, begin: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(end - begin).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, begin)?;
    Ok(bytes)
}

/// The last whole line of a chain in the window.
fn last_linked(window: &[u8], is_all: bool) -> Option<Tail> {
    let mut rest = window;
    loop {
        let newline = rest.iter().rposition(|byte| *byte == b'\n')?;
        let (before, _) = rest.split_at_checked(newline)?;
        let begin = match before.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => newline + 1,
            None if is_all => 0,
            None => return None,
        };
        let (earlier, line) = before.split_at_checked(begin)?;
        if let Some(link) = Link::of(line) {
            let (_, after) = window.split_at_checked(newline + 1)?;
            let over = (!after.is_empty()).then(|| Hash::of(without_newline(after)));
            return Some(Tail::Chained { sequence: link.sequence, hash: Hash::of(line), over });
        }
        rest = earlier;
    }
}

fn hash_of_file(file: &File, length: u64) -> io::Result<Hash> {
    let mut hasher = Hasher::default();
    let mut begin = 0;
    while begin < length {
        let end = length.min(begin + WINDOW_BYTES_MAX);
        let bytes = read(file, begin, end)?;
        hasher.update(if end == length { without_newline(&bytes) } else { &bytes });
        begin = end;
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn end_of(content: &str) -> End {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        End::of(&file).unwrap()
    }

    const LINE: &str = r#"{"chain":{"sequence":7}}"#;

    fn chained(over: Option<&str>) -> Tail {
        let over = over.map(|text| Hash::of(text.as_bytes()));
        Tail::Chained { sequence: 7, hash: Hash::of(LINE.as_bytes()), over }
    }

    #[test]
    fn finds_the_last_line_of_the_chain() {
        assert_eq!(end_of("").tail, Tail::Empty);
        assert_eq!(end_of(&format!("{LINE}\n")).tail, chained(None));
        assert_eq!(end_of(&format!("x\n{LINE}\n")).tail, chained(None));
        assert_eq!(end_of(&format!("{}\n{LINE}\n", "x".repeat(100_000))).tail, chained(None));
    }

    #[test]
    fn hashes_the_text_after_the_chain() {
        let torn = end_of(&format!("{LINE}\n{{\"sch"));
        assert_eq!(torn.tail, chained(Some("{\"sch")));
        assert!(!torn.is_whole);
        let foreign = end_of(&format!("{LINE}\na\n\nb\n"));
        assert_eq!(foreign.tail, chained(Some("a\n\nb")));
        assert!(foreign.is_whole);
        let long = "x".repeat(100_000);
        assert_eq!(end_of(&format!("{LINE}\n{long}")).tail, chained(Some(&long)));
    }

    #[test]
    fn an_interrupted_line_is_not_part_of_the_chain() {
        assert_eq!(end_of(LINE).tail, Tail::Foreign { over: Hash::of(LINE.as_bytes()) });
    }

    #[test]
    fn hashes_the_whole_file_if_the_window_has_no_line_of_the_chain() {
        let long = format!("{LINE}\n{}", "x".repeat(WINDOW_BYTES_MAX as usize + 5));
        assert_eq!(end_of(&long).tail, Tail::Foreign { over: Hash::of(long.as_bytes()) });
        assert_eq!(end_of(&format!("{long}\n")).tail, Tail::Foreign { over: Hash::of(long.as_bytes()) });
    }
}

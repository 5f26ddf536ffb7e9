//! A list of Connect, read entry by entry: a long one never is in memory as a whole.

use serde_json::{Deserializer, Map, Value};

use super::denial::Denial;
use super::memory::FREE_BYTES;

/// A JSON array of objects, of which parts arrive one after another.
#[derive(Default)]
pub struct List {
    /// What has arrived and is not parsed yet.
    pending: Vec<u8>,
    position: Position,
    /// The length of `pending` from which another attempt at an incomplete entry is made, so that they stay few.
    attempt_at: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Position {
    #[default]
    Start,
    /// After `[`.
    First,
    /// After an entry.
    Between,
    /// After `,`.
    Next,
    /// After `]`.
    End,
}

impl List {
    /// Takes a part, and passes on each entry that is complete.
    ///
    /// # Errors
    /// It is not such a list.
    pub fn push(&mut self, part: &[u8], mut each: impl FnMut(Map<String, Value>)) -> Result<(), Denial> {
        self.pending.extend_from_slice(part);
        let mut parsed = 0;
        while let Some(entry) = self.next(&mut parsed)? {
            each(entry);
        }
        self.pending.drain(..parsed);
        Ok(())
    }

    /// Passes on what remains once all parts have arrived.
    ///
    /// # Errors
    /// The list is not complete.
    pub fn finish(mut self, each: impl FnMut(Map<String, Value>)) -> Result<(), Denial> {
        self.attempt_at = 0;
        self.push(b"", each)?;
        if self.position == Position::End { Ok(()) } else { Err(Denial::ConnectOdd) }
    }

    fn next(&mut self, parsed: &mut usize) -> Result<Option<Map<String, Value>>, Denial> {
        loop {
            let rest = self.pending.get(*parsed..).unwrap_or_default();
            let blanks = rest.iter().take_while(|byte| b" \t\r\n".contains(byte)).count();
            let rest = rest.get(blanks..).unwrap_or_default();
            *parsed += blanks;
            let Some(first) = rest.first() else { return Ok(None) };
            self.position = match (self.position, first) {
                (Position::Start, b'[') => Position::First,
                (Position::First | Position::Between, b']') => Position::End,
                (Position::Between, b',') => Position::Next,
                (Position::First | Position::Next, _) if rest.len() < self.attempt_at => return Ok(None),
                (Position::First | Position::Next, _) => {
                    let mut entries = Deserializer::from_slice(rest).into_iter::<Map<String, Value>>();
                    return match entries.next() {
                        Some(Ok(entry)) => {
                            *parsed += entries.byte_offset();
                            (self.position, self.attempt_at) = (Position::Between, 0);
                            Ok(Some(entry))
                        }
                        Some(Err(error)) if error.is_eof() && rest.len() <= FREE_BYTES => {
                            self.attempt_at = 2 * rest.len();
                            Ok(None)
                        }
                        _ => Err(Denial::ConnectOdd),
                    };
                }
                _ => return Err(Denial::ConnectOdd),
            };
            *parsed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The entries of a list that arrives in parts of this many bytes.
    fn entries(text: &[u8], part_bytes: usize) -> Result<Vec<Value>, Denial> {
        let (mut list, mut found) = (List::default(), Vec::new());
        for part in text.chunks(part_bytes) {
            list.push(part, |entry| found.push(entry.into()))?;
        }
        list.finish(|entry| found.push(entry.into()))?;
        Ok(found)
    }

    #[test]
    fn finds_each_entry_wherever_parts_end() {
        let list = json!([{ "id": "a", "x": [1.5, true, null, "]},{"] }, {}, { "y": { "z": "\u{e9}\n\"" } }]);
        for text in [list.to_string(), format!("{list:#}\n"), " [ ] ".to_owned(), "[]".to_owned()] {
            let expected: Vec<Value> = serde_json::from_str(&text).unwrap();
            for part_bytes in 1..=text.len() {
                assert_eq!(entries(text.as_bytes(), part_bytes), Ok(expected.clone()), "{part_bytes}: {text}");
            }
        }
        let long: Value = (0..500).map(|at| json!({ "id": at, "text": "x".repeat(at) })).collect();
        assert_eq!(entries(long.to_string().as_bytes(), 1000).unwrap().len(), 500);
    }

    #[test]
    fn refuses_what_is_not_a_complete_list_of_objects() {
        let huge = format!("[{{\"a\":\"{}\"}}]", "x".repeat(2 * FREE_BYTES));
        let deep = format!("[{{\"a\":{}", "[".repeat(1000));
        for text in [
            "",
            "[",
            "[{}",
            "[{},",
            "[{},]",
            "[,{}]",
            "[{}{}]",
            "[{}]]",
            "[{}]x",
            "{}",
            "[1]",
            "[[{}]]",
            "[{]}",
            "[{\"a\":}]",
            &huge,
            &deep,
        ] {
            for part_bytes in [1, 7, 4096] {
                let found = entries(text.as_bytes(), part_bytes);
                assert_eq!(found, Err(Denial::ConnectOdd), "{}", text.get(..20).unwrap_or(text));
            }
        }
    }
}

//! What is laid out for people, line by line.
//!
//! Names of vaults, items, fields and containers, and what engines print, come from outside. A table escapes each line, so that no such
//! text can begin another line, or steer the terminal that shows it.

use std::fmt::Display;

use anstyle::AnsiColor;

use crate::excerpt::printable;

/// Lines for a terminal.
#[derive(Default)]
pub(in crate::cli) struct Table(String);

impl Table {
    /// Adds a line.
    pub(in crate::cli) fn line(&mut self, text: impl Display) {
        self.0.push_str(&printable(&text.to_string()));
        self.0.push('\n');
    }

    /// Adds a line that begins with a word that is good, worth a look, or bad.
    pub(in crate::cli) fn verdict(&mut self, word: &str, colour: AnsiColor, text: impl Display) {
        let style = colour.on_default();
        self.0.push_str(&format!("{style}{word:<8}{style:#} "));
        self.line(text);
    }

    /// Whether there is no line yet.
    pub(in crate::cli) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lines, with escape sequences for colours and for nothing else.
    pub(in crate::cli) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_text_cannot_forge_a_line() {
        let mut table = Table::default();
        table.verdict("problem", AnsiColor::Red, format_args!("vault \"{}\"", "x\nok       all is well\x1b[2K\x07"));
        assert_eq!(table.as_str().lines().count(), 1);
        assert!(table.as_str().ends_with("vault \"x\\nok       all is well\\u{1b}[2K\\u{7}\"\n"), "{}", table.as_str());
    }
}

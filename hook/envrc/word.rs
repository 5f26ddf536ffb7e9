//! What a shell script consists of: words, in parts, and what stands between them.

use std::fmt;

/// A word, an operator, or the end of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// The line on which it begins, from 1.
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word(Word),
    /// The end of a line.
    Newline,
    /// A comment, without its `#` and the spaces around it.
    Comment(String),
    /// `;`
    End,
    /// `;;`, `;&`, `;;&`
    Clause,
    /// `&`
    Background,
    /// `&&`, `|`, `|&`, `||`
    Chain,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `<`, `>` and their like.
    Redirection,
    /// `<<`, `<<-`
    Heredoc,
}

/// One word, in parts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) parts: Vec<Part>,
    /// As it is written.
    pub(super) raw: String,
    /// Whether it, or the blank before it, goes on from one line to the next.
    pub(super) is_continued: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Text without quotes, in which the shell sees reserved words, names and braces.
    Plain(String),
    /// Text that is quoted.
    Quoted(String),
    /// What the shell would put there.
    Expansion(Expansion),
}

/// What the shell would put into a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expansion {
    /// A path, which begins with `/`.
    Path,
    /// A number.
    Number,
    /// The value of a variable or parameter.
    Variable(String),
    /// What a command prints, or a sum is.
    Command,
    /// Escapes: `$'…'`.
    Escapes,
    /// A translation: `$"…"`.
    Translation,
    /// Each of several words: `{a,b}`.
    Braces,
}

impl Word {
    /// Its value, if that is certain.
    pub(super) fn literal(&self) -> Option<String> {
        literal(&self.parts)
    }

    /// Its text, if nothing in it is quoted or expanded.
    pub(super) fn plain(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Plain(text)] => Some(text),
            _ => None,
        }
    }

    pub(super) fn push(&mut self, character: char, quoted: bool) {
        match (self.parts.last_mut(), quoted) {
            (Some(Part::Plain(text)), false) | (Some(Part::Quoted(text)), true) => text.push(character),
            (_, false) => self.parts.push(Part::Plain(character.into())),
            (_, true) => self.parts.push(Part::Quoted(character.into())),
        }
    }

    pub(super) fn expand(&mut self, expansion: Expansion) {
        self.parts.push(Part::Expansion(expansion));
    }
}

/// The value of these parts, if it is certain.
pub(super) fn literal(parts: &[Part]) -> Option<String> {
    let text = |part: &Part| match part {
        Part::Plain(text) | Part::Quoted(text) => Some(text.clone()),
        Part::Expansion(_) => None,
    };
    parts.iter().map(text).collect()
}

impl fmt::Display for Expansion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expansion::Path => f.write_str("a path"),
            Expansion::Number => f.write_str("a number"),
            Expansion::Variable(name) => write!(f, "the value of ${name:.40}"),
            Expansion::Command => f.write_str("the result of $(…)"),
            Expansion::Escapes => f.write_str("$'…'"),
            Expansion::Translation => f.write_str("$\"…\""),
            Expansion::Braces => f.write_str("braces outside of quotes"),
        }
    }
}

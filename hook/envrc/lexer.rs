//! Tells the words of a shell script apart as bash does, without running any of it.

use std::str::Chars;

use super::Problem;
use super::word::{Expansion, Kind, Part, Token, Word};

/// Variables, and commands, whose value is a path.
const PATHS: [&str; 10] = [
    "HOME",
    "OLDPWD",
    "PATH",
    "PWD",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];
const PATH_COMMANDS: [&str; 5] = ["direnv_layout_dir", "expand_path", "find_up", "pwd", "realpath"];

/// Operators, each before those that it begins with.
const OPERATORS: [(&str, Kind); 21] = [
    ("<<<", Kind::Redirection),
    ("<<-", Kind::Heredoc),
    ("<<", Kind::Heredoc),
    ("<&", Kind::Redirection),
    ("<>", Kind::Redirection),
    ("<", Kind::Redirection),
    (">>", Kind::Redirection),
    (">&", Kind::Redirection),
    (">|", Kind::Redirection),
    (">", Kind::Redirection),
    ("&>>", Kind::Redirection),
    ("&>", Kind::Redirection),
    ("&&", Kind::Chain),
    ("&", Kind::Background),
    ("||", Kind::Chain),
    ("|&", Kind::Chain),
    ("|", Kind::Chain),
    (";;&", Kind::Clause),
    (";;", Kind::Clause),
    (";&", Kind::Clause),
    (";", Kind::End),
];

/// Splits a script into tokens.
///
/// # Errors
/// Where it cannot be told how bash would go on.
pub(super) fn split(text: &str) -> Result<Vec<Token>, (usize, Problem)> {
    let mut reader = Reader { rest: text.chars(), line: 1 };
    let mut tokens = Vec::new();
    while let Some(token) = reader.token()? {
        tokens.push(token);
    }
    Ok(tokens)
}

struct Reader<'a> {
    rest: Chars<'a>,
    line: usize,
}

type Read<T> = Result<T, (usize, Problem)>;

impl Reader<'_> {
    fn token(&mut self) -> Read<Option<Token>> {
        let is_continued = self.skip_blanks();
        let line = self.line;
        let kind = match self.peek() {
            None => return Ok(None),
            Some('\n') => {
                self.next();
                Kind::Newline
            }
            Some('#') => Kind::Comment(self.comment()),
            Some('(') => {
                self.next();
                Kind::Open
            }
            Some(')') => {
                self.next();
                Kind::Close
            }
            Some(character) if is_operator(character) => self.operator(),
            Some(_) => Kind::Word(self.word(is_continued)?),
        };
        Ok(Some(Token { line, kind }))
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.rest.next();
        self.line += usize::from(character == Some('\n'));
        character
    }

    fn skip(&mut self, prefix: &str) -> bool {
        let found = self.rest.as_str().starts_with(prefix);
        if found {
            for _ in prefix.chars() {
                self.next();
            }
        }
        found
    }

    /// Whether a line went on in the next one.
    fn skip_blanks(&mut self) -> bool {
        let mut is_continued = false;
        loop {
            if self.skip("\\\n") {
                is_continued = true;
            } else if !self.skip(" ") && !self.skip("\t") {
                return is_continued;
            }
        }
    }

    fn comment(&mut self) -> String {
        let text: String = self.rest.as_str().chars().take_while(|character| *character != '\n').collect();
        self.skip(&text);
        text.trim_start_matches('#').trim().to_owned()
    }

    fn operator(&mut self) -> Kind {
        let found = OPERATORS.into_iter().find(|(text, _)| self.skip(text));
        found.map_or(Kind::Chain, |(_, kind)| kind)
    }

    fn word(&mut self, is_continued: bool) -> Read<Word> {
        let begin = self.rest.as_str();
        let mut word = Word { is_continued, ..Word::default() };
        while let Some(character) = self.peek() {
            if " \t\n()".contains(character) || is_operator(character) {
                break;
            }
            self.next();
            match character {
                '\\' => self.escape(&mut word),
                '\'' => self.single_quotes(&mut word)?,
                '"' => self.double_quotes(&mut word)?,
                '$' => self.dollar(&mut word, false)?,
                '`' => self.backquotes(&mut word)?,
                _ => word.push(character, false),
            }
        }
        let length = begin.len() - self.rest.as_str().len();
        word.raw = begin.get(..length).unwrap_or_default().to_owned();
        if has_braces(&word.parts) {
            word.expand(Expansion::Braces);
        }
        Ok(word)
    }

    fn escape(&mut self, word: &mut Word) {
        match self.next() {
            Some('\n') => word.is_continued = true,
            Some(character) => word.push(character, true),
            None => word.push('\\', true),
        }
    }

    fn single_quotes(&mut self, word: &mut Word) -> Read<()> {
        let unclosed = self.unclosed("a single quote");
        word.parts.push(Part::Quoted(String::new()));
        loop {
            match self.next().ok_or_else(|| unclosed.clone())? {
                '\'' => return Ok(()),
                character => word.push(character, true),
            }
        }
    }

    fn double_quotes(&mut self, word: &mut Word) -> Read<()> {
        let unclosed = self.unclosed("a double quote");
        word.parts.push(Part::Quoted(String::new()));
        loop {
            match self.next().ok_or_else(|| unclosed.clone())? {
                '"' => return Ok(()),
                '$' => self.dollar(word, true)?,
                '`' => self.backquotes(word)?,
                '\\' => match self.next().ok_or_else(|| unclosed.clone())? {
                    '\n' => word.is_continued = true,
                    character => {
                        if !"$`\"\\".contains(character) {
                            word.push('\\', true);
                        }
                        word.push(character, true);
                    }
                },
                character => word.push(character, true),
            }
        }
    }

    /// What follows a `$`.
    fn dollar(&mut self, word: &mut Word, quoted: bool) -> Read<()> {
        match self.peek() {
            Some('\'') if !quoted => {
                self.next();
                self.escapes()?;
                word.expand(Expansion::Escapes);
            }
            Some('"') if !quoted => {
                self.next();
                self.double_quotes(&mut Word::default())?;
                word.expand(Expansion::Translation);
            }
            Some('(') => {
                let body = self.rest.as_str().get(1..).unwrap_or_default();
                let command = body.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
                let expansion = if PATH_COMMANDS.contains(&command) { Expansion::Path } else { Expansion::Command };
                self.parentheses()?;
                word.expand(expansion);
            }
            Some('{') => {
                let body = self.rest.as_str().get(1..).unwrap_or_default();
                let name = body.chars().take_while(|character| is_name(*character)).collect::<String>();
                let expansion = match body.get(name.len()..) {
                    Some(rest) if rest.starts_with('}') => variable(&name),
                    _ => Expansion::Variable(name),
                };
                self.braces(quoted)?;
                word.expand(expansion);
            }
            Some(character) if character.is_ascii_alphabetic() || character == '_' => {
                let name: String = self.rest.as_str().chars().take_while(|character| is_name(*character)).collect();
                self.skip(&name);
                word.expand(variable(&name));
            }
            Some(character) if character.is_ascii_digit() || "@*-".contains(character) => {
                self.next();
                word.expand(Expansion::Variable(character.into()));
            }
            Some('#' | '?' | '$' | '!') => {
                self.next();
                word.expand(Expansion::Number);
            }
            Some('[') => word.expand(Expansion::Number),
            _ => word.push('$', quoted),
        }
        Ok(())
    }

    /// To the end of `$'…'`.
    fn escapes(&mut self) -> Read<()> {
        let unclosed = self.unclosed("a single quote");
        loop {
            match self.next().ok_or_else(|| unclosed.clone())? {
                '\'' => return Ok(()),
                '\\' => _ = self.next(),
                _ => {}
            }
        }
    }

    /// To the end of a command substitution or an arithmetic expansion, which begins here.
    fn parentheses(&mut self) -> Read<()> {
        let unclosed = self.unclosed("a parenthesis");
        let mut depth = 0_usize;
        let mut is_word_start = true;
        loop {
            let rest = self.rest.as_str();
            if rest.starts_with("<<") && !rest.starts_with("<<<") {
                return Err((self.line, Problem::Heredoc));
            }
            if is_word_start && (rest.starts_with('#') || rest.starts_with("case")) {
                return Err((self.line, Problem::Substitution));
            }
            self.skip("<<<");
            let character = self.next().ok_or_else(|| unclosed.clone())?;
            is_word_start = " \t\n;&|()".contains(character);
            let mut aside = Word::default();
            match character {
                '(' => depth += 1,
                ')' if depth == 1 => return Ok(()),
                ')' => depth -= 1,
                '\\' => _ = self.next(),
                '\'' => self.single_quotes(&mut aside)?,
                '"' => self.double_quotes(&mut aside)?,
                '$' => self.dollar(&mut aside, false)?,
                '`' => self.backquotes(&mut aside)?,
                _ => {}
            }
        }
    }

    /// To the end of `${…}`, whose brace begins here.
    fn braces(&mut self, quoted: bool) -> Read<()> {
        let unclosed = self.unclosed("a brace");
        loop {
            let mut aside = Word::default();
            match self.next().ok_or_else(|| unclosed.clone())? {
                '}' => return Ok(()),
                '\\' => _ = self.next(),
                // Within double quotes it depends on what is done to the variable whether this one quotes.
                '\'' if quoted => return Err((self.line, Problem::Substitution)),
                '\'' => self.single_quotes(&mut aside)?,
                '"' => self.double_quotes(&mut aside)?,
                '$' => self.dollar(&mut aside, quoted)?,
                '`' => self.backquotes(&mut aside)?,
                _ => {}
            }
        }
    }

    fn backquotes(&mut self, word: &mut Word) -> Read<()> {
        let unclosed = self.unclosed("a backquote");
        loop {
            match self.next().ok_or_else(|| unclosed.clone())? {
                '`' => break,
                '\\' => _ = self.next(),
                // What a backquote between quotes is, shells do not agree on.
                '\'' | '"' | '#' => return Err((self.line, Problem::Substitution)),
                _ => {}
            }
        }
        word.expand(Expansion::Command);
        Ok(())
    }

    fn unclosed(&self, what: &'static str) -> (usize, Problem) {
        (self.line, Problem::Unclosed { what })
    }
}

fn variable(name: &str) -> Expansion {
    if PATHS.contains(&name) { Expansion::Path } else { Expansion::Variable(name.to_owned()) }
}

fn is_operator(character: char) -> bool {
    ";&|<>".contains(character)
}

/// Whether a name of a variable can go on with it.
pub(super) fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// Whether the shell may make several words of one.
fn has_braces(parts: &[Part]) -> bool {
    let plain = || parts.iter().filter_map(|part| if let Part::Plain(text) = part { Some(text) } else { None });
    let has = |what: &str| plain().any(|text| text.contains(what));
    has("{") && has("}") && (has(",") || has(".."))
}

//! Templates: text in which references stand for secrets.
//!
//! ```text
//! {{ op://vault/item/field }}   a reference; space inside the braces is optional
//! op://vault/item/field         a reference without spaces, up to the first character that it cannot have
//! {{ "{{" }}                    the text between the quotes, for literal braces
//! ```
//!
//! The syntax is that of `op inject`, read strictly: any other use of `{{` is an error, and variables are not expanded. Rendering is
//! a function of the template and the secrets.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use crate::fault::{Class, Fault};
use crate::reference::{Reference, ReferenceError};
use crate::secret::Secret;

/// The largest template.
pub const TEMPLATE_BYTES_MAX: usize = 256 * 1024;

/// What the templates of one container may become together: a template can name one secret many times.
pub const RENDERED_BYTES_MAX: usize = 4 * 1024 * 1024;

const OPEN: &str = "{{";
const CLOSE: &str = "}}";
const SCHEME: &str = "op://";

/// Text and references, in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Reference(Reference),
}

impl Template {
    /// Whether a text is a template, also an invalid one.
    pub fn is_template(text: &str) -> bool {
        text.contains(OPEN)
    }

    /// The references, each once, in the order in which they first occur.
    pub fn references(&self) -> Vec<&Reference> {
        let mut seen = HashSet::new();
        let references = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Reference(reference) => Some(reference),
        });
        references.filter(|reference| seen.insert(*reference)).collect()
    }

    /// The text with a secret in place of each reference; `None` if one has no secret.
    ///
    /// # Errors
    /// It would be larger than this.
    pub fn render<'a>(
        &'a self,
        secret: impl Fn(&Reference) -> Option<&'a Secret>,
        bytes_max: usize,
    ) -> Result<Option<Secret>, RenderError> {
        let bytes = |piece: &'a Piece| match piece {
            Piece::Text(text) => Some(text.as_bytes()),
            Piece::Reference(reference) => secret(reference).map(Secret::expose),
        };
        let Some(parts) = self.pieces.iter().map(bytes).collect::<Option<Vec<&[u8]>>>() else { return Ok(None) };
        let length = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        if length > bytes_max {
            return Err(RenderError { length, bytes_max });
        }
        // With the whole capacity, no copy of a part is left behind.
        let mut rendered = Vec::with_capacity(length);
        parts.into_iter().for_each(|part| rendered.extend_from_slice(part));
        Ok(Some(Secret::new(rendered)))
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    /// Reads a template with at least one reference.
    fn from_str(text: &str) -> Result<Template, TemplateError> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::TooLarge);
        }
        let mut parser = Parser { text, at: 0, pieces: Vec::new() };
        while parser.at < text.len() {
            parser.step()?;
        }
        let template = Template { pieces: parser.pieces };
        if template.references().is_empty() { Err(TemplateError::NoReference) } else { Ok(template) }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    pieces: Vec<Piece>,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Takes the text up to the next placeholder or reference, and that.
    fn step(&mut self) -> Result<(), TemplateError> {
        let Some((length, next)) = next(self.rest()) else {
            self.take_text(self.rest().len());
            return Ok(());
        };
        self.take_text(length);
        match next {
            Next::Placeholder => self.placeholder(),
            Next::Reference => {
                let length = bare_length(self.rest());
                let reference = self.reference(self.at, length)?;
                self.pieces.push(Piece::Reference(reference));
                self.at += length;
                Ok(())
            }
        }
    }

    fn placeholder(&mut self) -> Result<(), TemplateError> {
        let open = || TemplateError::Open { place: self.place(self.at) };
        let other = || TemplateError::Placeholder { place: self.place(self.at) };
        let inside = self.rest().strip_prefix(OPEN).unwrap_or_default();
        let spaces = inside.len() - inside.trim_start_matches(' ').len();
        if let Some(quoted) = inside.trim_start_matches(' ').strip_prefix('"') {
            let (text, after) = quoted.split_once('"').ok_or_else(open)?;
            let after = after.trim_start_matches(' ').strip_prefix(CLOSE).ok_or_else(other)?;
            let (text, end) = (text.to_owned(), self.text.len() - after.len());
            self.push_text(&text);
            self.at = end;
            return Ok(());
        }
        let length = inside.find(CLOSE).ok_or_else(open)?;
        let words = inside.get(..length).unwrap_or_default().trim_matches(' ');
        if !words.starts_with(SCHEME) {
            return Err(other());
        }
        let (begin, words) = (self.at + OPEN.len() + spaces, words.len());
        let reference = self.reference(begin, words)?;
        self.pieces.push(Piece::Reference(reference));
        self.at += OPEN.len() + length + CLOSE.len();
        Ok(())
    }

    fn reference(&self, begin: usize, length: usize) -> Result<Reference, TemplateError> {
        let text = self.text.get(begin..begin + length).unwrap_or_default();
        text.parse().map_err(|source| TemplateError::Reference { place: self.place(begin), source })
    }

    fn take_text(&mut self, length: usize) {
        let text = self.rest().get(..length).unwrap_or_default().to_owned();
        self.push_text(&text);
        self.at += length;
    }

    fn push_text(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Text(text.to_owned())),
        }
    }

    fn place(&self, at: usize) -> Place {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        Place { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
    }
}

/// What a text is followed by.
enum Next {
    Placeholder,
    Reference,
}

/// Where the next placeholder or reference without braces begins. Nothing behind it is looked at: the whole template is read once.
///
/// A reference begins not in the middle of a word, such as that of another scheme. `OP://` is found, too: it is an error, not text.
fn next(text: &str) -> Option<(usize, Next)> {
    let mut before = None;
    for (at, c) in text.char_indices() {
        let rest = text.get(at..)?;
        let is_scheme = rest.get(..SCHEME.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(SCHEME));
        if rest.starts_with(OPEN) {
            return Some((at, Next::Placeholder));
        }
        if is_scheme && !before.is_some_and(|c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')) {
            return Some((at, Next::Reference));
        }
        before = Some(c);
    }
    None
}

/// How long a reference without braces is.
fn bare_length(text: &str) -> usize {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '?' | '=');
    let path = text.get(SCHEME.len()..).unwrap_or_default();
    SCHEME.len() + path.find(|c| !is_part(c)).unwrap_or(path.len())
}

/// A place in a template, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    line: usize,
    column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}", self.line, self.column)
    }
}

/// Why a text is not a template. The text is not shown: it can contain a secret that someone wrote into it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum TemplateError {
    /// Larger than any configuration file.
    #[error("the template is larger than {TEMPLATE_BYTES_MAX} bytes")]
    TooLarge,
    /// Nothing to render.
    #[error("the template has no reference")]
    NoReference,
    /// Braces without an end.
    #[error("{place}: \"{{{{\" without \"}}}}\"")]
    Open { place: Place },
    /// Braces around something else.
    #[error("{place}: expected {{{{ op://vault/item/field }}}} or {{{{ \"text\" }}}}")]
    Placeholder { place: Place },
    /// A reference that is none.
    #[error("{place}: not a reference")]
    Reference { place: Place, source: ReferenceError },
}

impl Fault for TemplateError {
    fn class(&self) -> Class {
        Class::Data
    }

    fn hint(&self) -> Option<String> {
        match self {
            TemplateError::Open { .. } | TemplateError::Placeholder { .. } => {
                Some("{{ \"{{\" }} stands for two braces".into())
            }
            TemplateError::Reference { source, .. } => source.hint().map(str::to_owned),
            _ => None,
        }
    }
}

/// A template whose secrets make it too large.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the template would become {length} bytes, but {bytes_max} are left of the {RENDERED_BYTES_MAX} for all templates"
)]
pub struct RenderError {
    length: usize,
    bytes_max: usize,
}

impl Fault for RenderError {
    fn class(&self) -> Class {
        Class::Data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Template, TemplateError> {
        text.parse()
    }

    /// The template with the field's name as the secret of each reference.
    fn rendered(text: &str) -> String {
        let template = parse(text).unwrap();
        let secrets: Vec<(Reference, Secret)> = template
            .references()
            .into_iter()
            .map(|reference| (reference.clone(), Secret::new(format!("<{}>", reference.field()).into_bytes())))
            .collect();
        let secret = |wanted: &Reference| secrets.iter().find(|(known, _)| known == wanted).map(|(_, secret)| secret);
        let rendered = template.render(secret, RENDERED_BYTES_MAX).unwrap().unwrap();
        String::from_utf8(rendered.expose().to_vec()).unwrap()
    }

    #[test]
    fn puts_secrets_in_place_of_references() {
        for (text, expected) in [
            ("db:5432:app:{{ op://v/db/user }}:{{op://v/db/password}}\n", "db:5432:app:<user>:<password>\n"),
            ("{{   op://My Vault/my db/a section/my field   }}", "<my field>"),
            ("{{ op://v/i/code?attribute=otp }}", "<code>"),
            ("url: \"postgres://op://v/i/u:op://v/i/p@db\"", "url: \"postgres://<u>:<p>@db\""),
            ("a=op://v/i/f\nb=op://v/i/f", "a=<f>\nb=<f>"),
            ("{{ \"{{\" }} .Values }} op://v/i/f", "{{ .Values }} <f>"),
            ("loop://v/i/x }} { {op://v/i/f}", "loop://v/i/x }} { {<f>}"),
            ("é op://v/i/f é", "é <f> é"),
        ] {
            assert_eq!(rendered(text), expected, "{text}");
        }
    }

    #[test]
    fn is_strict() {
        for (text, message) in [
            ("", "the template has no reference"),
            ("text", "the template has no reference"),
            ("a\n {{ op://v/i/f", "line 2 column 2: \"{{\" without \"}}\""),
            ("{{ \"x }} op://v/i/f", "line 1 column 1: \"{{\" without \"}}\""),
            ("{{ .Password }}", "line 1 column 1: expected {{ op://vault/item/field }} or {{ \"text\" }}"),
            ("{{ OP://v/i/f }}", "line 1 column 1: expected {{ op://vault/item/field }} or {{ \"text\" }}"),
            ("{{ \"a\" \"b\" }}", "line 1 column 1: expected {{ op://vault/item/field }} or {{ \"text\" }}"),
            ("é: {{ op://v/i }}", "line 1 column 7: not a reference"),
            ("x op://v/$NAME/f", "line 1 column 3: not a reference"),
            ("OP://v/i/f", "line 1 column 1: not a reference"),
            ("op://v/i/f op://", "line 1 column 12: not a reference"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
        }
        let large = format!("op://v/i/f{}", " ".repeat(TEMPLATE_BYTES_MAX));
        assert_eq!(parse(&large).unwrap_err(), TemplateError::TooLarge);
    }

    #[test]
    fn names_each_reference_once() {
        let template = parse("op://v/i/b op://v/i/a {{ op://v/i/b }} op://v/i/b?attribute=otp").unwrap();
        let references: Vec<String> = template.references().iter().map(ToString::to_string).collect();
        assert_eq!(references, ["op://v/i/b", "op://v/i/a", "op://v/i/b?attribute=otp"]);
    }

    #[test]
    fn is_not_rendered_with_a_hole_or_without_a_bound() {
        let template = parse("op://v/i/a op://v/i/b").unwrap();
        let small = Secret::new(b"x".to_vec());
        let a_alone = |wanted: &Reference| (wanted.field() == "a").then_some(&small);
        assert!(template.render(a_alone, RENDERED_BYTES_MAX).unwrap().is_none());
        assert!(template.render(|_| Some(&small), 3).unwrap().is_some());
        let message = "the template would become 3 bytes, but 2 are left of the 4194304 for all templates";
        let error = template.render(|_| Some(&small), 2).err().unwrap();
        assert_eq!(error.to_string(), message);
    }

    /// Whoever starts a container writes it, and the broker reads it for all: without a bound on the work, a start would take minutes.
    #[test]
    fn the_largest_templates_of_each_kind_are_read_once() {
        let filled = |piece: &dyn Fn(usize) -> String| {
            let mut text = String::from("op://v/i/f ");
            for number in 0.. {
                let piece = piece(number);
                if text.len() + piece.len() > TEMPLATE_BYTES_MAX {
                    return text;
                }
                text.push_str(&piece);
            }
            text
        };
        let count = |text: String| parse(&text).unwrap().references().len();
        assert!(count(filled(&|number| format!("op://v/i/{number} "))) > 15_000);
        assert!(count(filled(&|number| format!("{{{{op://v/i/{number}}}}}"))) > 15_000);
        assert_eq!(count(filled(&|_| "{{\"\"}}".into())), 1);
        assert_eq!(count(filled(&|_| "\n".into())), 1);
        assert_eq!(count(filled(&|_| "aop://".into())), 1);
    }
}

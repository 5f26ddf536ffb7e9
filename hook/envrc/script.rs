//! The commands of a script: which of them give a variable a reference, for sure, and whether any other may.

use std::collections::{BTreeMap, BTreeSet};

use super::lexer::split;
use super::word::{Expansion, Kind, Part, Token, Word, literal};
use super::{Problem, file_of, is_variable};
use crate::container::FileName;
use crate::reference::Reference;

/// What a value that is meant to be a reference begins with, in whatever case.
const SCHEME: &str = "op:";
const PREFIX: &str = "op://";

/// The comment by which a person says that a line has no reference.
const NO_REFERENCE: &str = "no reference";

/// Commands that set variables by arguments of the form `NAME=value`.
const DECLARATIONS: [&str; 5] = ["export", "declare", "typeset", "readonly", "local"];

type Read<T> = Result<T, (usize, Problem)>;

/// A line, and what it sets.
pub(super) type Found = (usize, String, FileName, Reference);

/// The variables of a script that hold references.
pub(super) fn variables(text: &str) -> Read<Vec<Found>> {
    let tokens = split(text)?;
    let said = tokens.iter().filter(|token| matches!(&token.kind, Kind::Comment(text) if text == NO_REFERENCE));
    let mut script = Script { passed_over: said.map(|token| token.line).collect(), ..Script::default() };
    for token in tokens {
        script.take(token)?;
    }
    script.end()
}

/// What is open, and so decides whether a command runs, and what a word means.
#[derive(Debug, PartialEq, Eq)]
enum Block {
    /// `if … fi`
    If,
    /// `for`, `while`, `until`, `select … done`
    Loop,
    /// `case … esac`
    Case,
    /// `{ … }`
    Braces,
    /// `( … )`, also of a function or an array.
    Parentheses,
    /// `[[ … ]]`
    Test,
}

#[derive(Default)]
struct Script {
    blocks: Vec<(usize, Block)>,
    command: Command,
    /// The next word belongs to what stood before it, not to the command: a redirection's file, a function's name.
    next_is_aside: bool,
    found: Vec<Found>,
    /// Variables that are set or unset otherwise, and where.
    others: BTreeMap<String, usize>,
    /// Lines of which a person said that they have no reference.
    passed_over: BTreeSet<usize>,
}

/// A simple command.
#[derive(Default)]
struct Command {
    words: Vec<(usize, Word)>,
    /// Whether it may not run, or in another shell, or does more than its words say.
    is_tied: bool,
    /// Whether it comes after `&&` or the like, on whatever line.
    is_awaited: bool,
}

impl Script {
    fn take(&mut self, token: Token) -> Read<()> {
        let Token { line, kind } = token;
        match kind {
            Kind::Comment(_) => {}
            Kind::Heredoc => return Err((line, Problem::Heredoc)),
            Kind::Word(word) => self.word(line, word)?,
            // A line that ends with `&&` goes on.
            Kind::Newline if self.command.is_awaited && self.command.words.is_empty() => {}
            Kind::Newline | Kind::End => self.finish(false)?,
            Kind::Background => self.finish(true)?,
            Kind::Clause | Kind::Chain => {
                self.finish(true)?;
                self.command.is_tied = true;
                self.command.is_awaited = kind == Kind::Chain;
            }
            Kind::Redirection => {
                self.command.is_tied = true;
                self.next_is_aside = true;
            }
            Kind::Open => {
                self.finish(true)?;
                self.blocks.push((line, Block::Parentheses));
                self.command.is_tied = true;
                self.next_is_aside = false;
            }
            Kind::Close => {
                self.finish(true)?;
                match self.blocks.last() {
                    Some((_, Block::Parentheses)) => drop(self.blocks.pop()),
                    // The end of a pattern.
                    Some((_, Block::Case)) => {}
                    _ => return Err((line, Problem::Unopened)),
                }
                self.command.is_tied = true;
            }
        }
        Ok(())
    }

    fn word(&mut self, line: usize, word: Word) -> Read<()> {
        if std::mem::take(&mut self.next_is_aside) {
            return self.require_no_reference(line, &word, Problem::Elsewhere);
        }
        let in_test = matches!(self.blocks.last(), Some((_, Block::Test)));
        let reserved = word.plain().filter(|_| in_test || self.command.words.is_empty());
        match reserved {
            Some("]]") if in_test => return self.close(line, Block::Test),
            _ if in_test => return self.require_no_reference(line, &word, Problem::Elsewhere),
            Some("if") => self.blocks.push((line, Block::If)),
            Some("fi") => return self.close(line, Block::If),
            Some("while" | "until") => self.blocks.push((line, Block::Loop)),
            Some("for" | "select") => {
                self.blocks.push((line, Block::Loop));
                self.command.words.push((line, word));
            }
            Some("done") => return self.close(line, Block::Loop),
            Some("case") => {
                self.blocks.push((line, Block::Case));
                self.command.words.push((line, word));
            }
            Some("esac") => return self.close(line, Block::Case),
            Some("{") => self.blocks.push((line, Block::Braces)),
            Some("}") => return self.close(line, Block::Braces),
            Some("[[") => self.blocks.push((line, Block::Test)),
            Some("function") => self.next_is_aside = true,
            Some("then" | "else" | "elif" | "do" | "!" | "time" | "coproc") => {}
            _ => {
                self.command.words.push((line, word));
                return Ok(());
            }
        }
        self.command.is_tied = true;
        Ok(())
    }

    fn close(&mut self, line: usize, block: Block) -> Read<()> {
        if self.blocks.pop().is_none_or(|(_, open)| open != block) {
            return Err((line, Problem::Unopened));
        }
        // What follows, up to the end of the command, is no command of its own.
        let word = Word { parts: vec![Part::Plain(String::new())], ..Word::default() };
        self.command.words.push((line, word));
        self.command.is_tied = true;
        Ok(())
    }

    /// Looks at a command that has ended; `tied` says that what ended it ties it to others.
    fn finish(&mut self, tied: bool) -> Read<()> {
        let Command { words, is_tied, .. } = std::mem::take(&mut self.command);
        let count = words.len();
        let words: Vec<(usize, Word)> =
            words.into_iter().filter(|(line, _)| !self.passed_over.contains(line)).collect();
        let Some((_, first)) = words.first() else { return Ok(()) };
        let declaration = first.plain().filter(|name| DECLARATIONS.contains(name)).map(str::to_owned);
        if declaration.is_none() && first.plain() == Some("unset") {
            self.others.extend(words.iter().filter_map(|(line, word)| Some((word.literal()?, *line))));
        }
        let arguments = words.iter().skip(usize::from(declaration.is_some()));
        let sets = |(_, word): &(usize, Word)| Setting::of(word, declaration.is_some()).is_some();
        let is_option = |(_, word): &(usize, Word)| word.raw.starts_with('-');
        let has_command = match &declaration {
            None => !words.iter().all(sets),
            Some(name) => name != "export" || arguments.clone().any(is_option),
        };
        let is_tied = tied || is_tied || words.len() < count;
        let why_not = self.why_not(&words, is_tied, has_command, words.first().is_some_and(sets));
        let mut sets_so_far = true;
        for (line, word) in arguments {
            match Setting::of(word, declaration.is_some()).filter(|_| sets_so_far) {
                Some(setting) => self.set(*line, &setting, word, why_not.clone())?,
                None => {
                    sets_so_far = declaration.is_some();
                    if let Some(command) = &declaration {
                        self.argument(*line, command, word, has_command)?;
                    }
                    self.require_no_reference(*line, word, why_not.clone().unwrap_or(Problem::Elsewhere))?;
                }
            }
        }
        Ok(())
    }

    /// Why a command cannot give a variable a reference, if it cannot.
    fn why_not(&self, words: &[(usize, Word)], is_tied: bool, has_command: bool, sets: bool) -> Option<Problem> {
        Some(match () {
            () if !self.blocks.is_empty() => Problem::Block,
            () if is_tied => Problem::Chained,
            () if words.iter().any(|(_, word)| word.is_continued) => Problem::Continued,
            () if has_command && sets => Problem::Prefix,
            () if has_command => Problem::Elsewhere,
            () => return None,
        })
    }

    /// An argument of a declaration that sets nothing in plain sight.
    fn argument(&mut self, line: usize, command: &str, word: &Word, has_options: bool) -> Read<()> {
        match word.literal() {
            Some(name) if has_options => _ = self.others.insert(name, line),
            Some(_) => {}
            None => {
                let expansion = word.parts.iter().find_map(|part| match part {
                    Part::Expansion(expansion) => Some(expansion.clone()),
                    _ => None,
                });
                let name = format!("an argument of {command}");
                return Err((line, Problem::Unknown { name, expansion: expansion.unwrap_or(Expansion::Command) }));
            }
        }
        Ok(())
    }

    /// A variable is set, or would be if it were not for what is told in `why_not`.
    fn set(&mut self, line: usize, setting: &Setting<'_>, word: &Word, why_not: Option<Problem>) -> Read<()> {
        let name = || setting.name.to_owned();
        let value = setting.literal();
        let is_meant = value
            .as_ref()
            .is_some_and(|value| value.get(..SCHEME.len()).is_some_and(|s| s.eq_ignore_ascii_case(SCHEME)));
        match value {
            Some(value) if is_meant => {
                if let Some(problem) = why_not {
                    return Err((line, problem));
                }
                if setting.is_added {
                    return Err((line, Problem::Appended { name: name() }));
                }
                let reference = value.parse().map_err(|reason| (line, Problem::Reference { name: name(), reason }))?;
                let file = file_of(setting.name).map_err(|problem| (line, problem))?;
                self.found.push((line, name(), file, reference));
                return Ok(());
            }
            Some(_) => self.require_no_reference(line, word, Problem::Middle { name: name() })?,
            None => {
                if let Some(expansion) = setting.may_become_reference() {
                    return Err((line, Problem::Unknown { name: name(), expansion: expansion.clone() }));
                }
                self.require_no_reference(line, word, Problem::Middle { name: name() })?;
            }
        }
        self.others.insert(name(), line);
        Ok(())
    }

    fn require_no_reference(&self, line: usize, word: &Word, problem: Problem) -> Read<()> {
        let has_prefix = word.raw.contains(PREFIX) || word.text().contains(PREFIX);
        if has_prefix && !self.passed_over.contains(&line) { Err((line, problem)) } else { Ok(()) }
    }

    fn end(mut self) -> Read<Vec<Found>> {
        self.finish(false)?;
        if let Some((line, _)) = self.blocks.first() {
            return Err((*line, Problem::Unclosed { what: "a block" }));
        }
        for (line, name, ..) in &self.found {
            if let Some(other) = self.others.get(name) {
                return Err((*line, Problem::Changed { name: name.clone(), other: *other }));
            }
        }
        Ok(self.found)
    }
}

/// `NAME=value` or `NAME+=value`.
struct Setting<'a> {
    name: &'a str,
    is_added: bool,
    /// What stands between `=` and the first other part.
    head: &'a str,
    rest: &'a [Part],
}

impl<'a> Setting<'a> {
    /// What a word sets. As an argument of a declaration its name may be quoted, in front of a command not.
    fn of(word: &'a Word, may_be_quoted: bool) -> Option<Setting<'a>> {
        let mut parts = word.parts.as_slice();
        while let [Part::Quoted(text), rest @ ..] = parts
            && text.is_empty()
            && may_be_quoted
        {
            parts = rest;
        }
        let (first, rest) = match parts {
            [Part::Plain(text), rest @ ..] => (text, rest),
            [Part::Quoted(text), rest @ ..] if may_be_quoted => (text, rest),
            _ => return None,
        };
        let (name, head) = first.split_once('=')?;
        let (name, is_added) = name.strip_suffix('+').map_or((name, false), |name| (name, true));
        is_variable(name).then_some(Setting { name, is_added, head, rest })
    }

    /// The value, if it is certain.
    fn literal(&self) -> Option<String> {
        Some(self.head.to_owned() + &literal(self.rest)?)
    }

    /// What could make the value a reference, if anything could.
    fn may_become_reference(&self) -> Option<&'a Expansion> {
        let mut before = self.head.to_ascii_lowercase();
        let mut rest = self.rest.iter();
        let expansion = loop {
            match rest.next()? {
                Part::Plain(text) | Part::Quoted(text) => before.push_str(&text.to_ascii_lowercase()),
                Part::Expansion(expansion) => break expansion,
            }
        };
        let is_path = before.is_empty() && matches!(expansion, Expansion::Path | Expansion::Number);
        let could_begin = before.starts_with(SCHEME) || SCHEME.starts_with(&before);
        let could_go_on = rest.all(|part| match part {
            Part::Plain(text) | Part::Quoted(text) => could_be_in_reference(text),
            Part::Expansion(_) => true,
        });
        let is_several = self.rest.contains(&Part::Expansion(Expansion::Braces));
        (is_several || !is_path && could_begin && could_go_on).then_some(expansion)
    }
}

/// Whether a reference may have this text behind its beginning.
fn could_be_in_reference(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || " ._-/?=".contains(c);
    text.split(PREFIX.trim_start_matches("op")).all(|text| text.chars().all(allowed))
}

impl Word {
    /// Its text, with gaps where something is expanded.
    fn text(&self) -> String {
        let text = |part: &Part| match part {
            Part::Plain(text) | Part::Quoted(text) => text.clone(),
            Part::Expansion(_) => "\0".to_owned(),
        };
        self.parts.iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::super::{EnvrcError, parse, unite};
    use super::*;

    /// What bash would see, as `NAME=reference`, or the line and the problem.
    fn parsed(text: &str) -> Result<Vec<String>, String> {
        let variables = parse(text.as_bytes(), Path::new("f")).map_err(|error| match error {
            EnvrcError::Line { line, problem, .. } => format!("{line}: {problem}"),
            other => other.to_string(),
        })?;
        Ok(variables.iter().map(|variable| format!("{}={}", variable.name, variable.reference)).collect())
    }

    fn accepts(text: &str, expected: &[&str]) {
        assert_eq!(parsed(text).unwrap(), expected, "{text}");
    }

    fn refuses(text: &str, expected: &str) {
        assert_eq!(parsed(text), Err(expected.to_owned()), "{text}");
    }

    #[test]
    fn takes_the_quoting_that_people_use() {
        for line in [
            "export A=op://v/i/f",
            "A=op://v/i/f",
            "A=\"op://v/i/f\"",
            "export A='op://v/i/f'",
            "export \"A=op://v/i/f\"",
            "  export\tA=op://v/\"i\"/f;",
            "export A=op:\\/\\/v/i/f # why",
            "export A=op://v/i/f;export A",
        ] {
            accepts(line, &["A=op://v/i/f"]);
        }
        accepts("export A=op://v/i/f B='op://My Vault/i/s/f'", &["A=op://v/i/f", "B=op://My Vault/i/s/f"]);
        accepts("A=op://My\\ Vault/i/f?attribute=otp", &["A=op://My Vault/i/f?attribute=otp"]);
        accepts("A=op://v/i/f\nA='op://v/i/f'", &["A=op://v/i/f", "A=op://v/i/f"]);
    }

    #[test]
    fn passes_over_what_is_direnvs_business() {
        for text in [
            "",
            "# export A=op://v/i/f",
            "layout python",
            "use oci_secrets",
            "PATH_add bin; dotenv_if_exists",
            "export PATH=\"$PWD/bin:$PATH\"",
            "export KUBECONFIG=$(expand_path .kube/config)",
            "export URL=\"postgres://user@$HOST/db\" LANG=C.UTF-8",
            "export CACHE=${XDG_CACHE_HOME}/x CLASSPATH=$A:$B",
            "export TEXT='a\nb' LONG=\"a \\\n  b\"",
            "if [[ -n $CI && ! -f x ]]; then\n  export A=b\nelse source_up; fi",
            "f() {\n  local a=(1 2); case $1 in (a|b) echo;; *) return;; esac\n}",
            "for x in a b; do echo \"$x\"; done >/dev/null 2>&1",
            "while read -r line; do (echo \"$line\"); done < <(ls)",
            "export VERSION=$(git describe) # no reference",
            "echo 'op:// is a scheme' # no reference",
            "[ -f x ] && dotenv x || true &\ncat <<<text",
        ] {
            accepts(&format!("{text}\nexport R=op://v/i/f"), &["R=op://v/i/f"]);
        }
    }

    #[test]
    fn refuses_what_only_a_shell_can_tell() {
        let unknown = |what: &str| format!("1: A may hold a reference, which only a shell can tell: it has {what}");
        refuses("export A=\"op://$VAULT/i/f\"", &unknown("the value of $VAULT"));
        refuses("export A=$B", &unknown("the value of $B"));
        refuses("A=\"${B:-op://v/i/f}\"", &unknown("the value of $B"));
        refuses("A=${PWD#x}/i/f", &unknown("the value of $PWD"));
        refuses("export A=$(cat reference)", &unknown("the result of $(…)"));
        refuses("export A=`cat reference`", &unknown("the result of $(…)"));
        refuses("export A=$'op://v/i/f'", &unknown("$'…'"));
        refuses("export A=$\"op://v/i/f\"", &unknown("$\"…\""));
        refuses("export A={o,x}p://v/i/f", &unknown("braces outside of quotes"));
        refuses("A=op://v/$1/f", &unknown("the value of $1"));
        refuses("export \"$B\"", &unknown("the value of $B").replace(" A ", " an argument of export "));
        refuses("if true; then export A=$B; fi", &unknown("the value of $B"));
    }

    #[test]
    fn refuses_references_that_do_not_stand_alone() {
        let block = "2: op:// in a block, which may run or not";
        refuses("if true; then\nexport A=op://v/i/f\nfi", block);
        refuses("f() {\nexport A=op://v/i/f; }", block);
        refuses("case x in\nx) A=op://v/i/f;; esac", block);
        refuses("A=(\nop://v/i/f)", block);
        let chained = "1: op:// in a command that is tied to others by && || | & or parentheses";
        for line in
            ["true && A=op://v/i/f", "A=op://v/i/f || true", "A=op://v/i/f &", "! A=op://v/i/f", "A=op://v/i/f >x"]
        {
            refuses(line, chained);
        }
        refuses("true &&\n\nA=op://v/i/f", &chained.replace('1', "3"));
        refuses(
            "A=op://My Vault/i/f",
            "1: op:// in front of a command, or a reference with a space that is not quoted",
        );
        for line in [
            "declare -x A=op://v/i/f",
            "export -n A=op://v/i/f",
            "echo op://v/i/f",
            "A[0]=op://v/i/f",
            "read A <<<op://v/i/f",
        ] {
            refuses(line, "1: op:// where no variable is set by `NAME=op://…` or `export NAME=op://…`");
        }
        refuses("export A=op://v/i/f \\\n B=op://v/i/g", "1: op:// in a command that goes on in the next line");
        refuses("A=xop://v/i/f", "1: A has op:// in the middle");
        refuses("A=op://v/i/f\nA+=op://v/i/g", "2: A is added to, and a reference must be all of a value");
    }

    #[test]
    fn refuses_what_is_not_one_reference_for_sure() {
        refuses(
            "\nA=op://v/f",
            "2: A holds no valid reference: expected op://vault/item/[section/]field, found 2 segments",
        );
        refuses("A=OP://v/i/f", "1: A holds no valid reference: it does not begin with \"op://\"");
        refuses("A=op:/v/i/f", "1: A holds no valid reference: it does not begin with \"op://\"");
        refuses(
            "A=op://v/i/f\r\n",
            "1: A holds no valid reference: character '\\r' is not allowed in a reference, only A-Z a-z 0-9 . _ - and space",
        );
        refuses("_A=op://v/i/f", "1: _A would be the file \"-a\", which no container can have");
        for other in ["A=plain", "A=", "unset A", "export -n A", "if x; then A=b; fi", "A=$(pwd)", "A+=x", "A=(b)"] {
            refuses(
                &format!("A=op://v/i/f\n{other}"),
                "1: A holds a reference, and is set or unset once more on line 2",
            );
        }
    }

    #[test]
    fn refuses_what_hides_where_a_command_ends() {
        refuses("cat <<E\nexport A=op://v/i/f\nE", "1: a here-document, whose end is not looked for");
        refuses("x=$(cat <<E\nE\n)", "1: a here-document, whose end is not looked for");
        refuses("x='\nA=op://v/i/f", "1: a single quote that is never closed");
        refuses("x=\"$(\"", "1: a double quote that is never closed");
        refuses("x=$(case a in a) echo;; esac)", "1: a substitution whose end cannot be told");
        refuses("\nx=\"${y#'}'}\"", "2: a substitution whose end cannot be told");
        refuses("if x; then\nA=b", "1: a block that is never closed");
        refuses("x\n}", "2: the end of a block that did not begin");
        refuses("A=b\0", "1: a NUL byte");
        assert!(matches!(
            parse(b"\n\xff", Path::new("f")),
            Err(EnvrcError::Line { line: 2, problem: Problem::NotUtf8, .. })
        ));
    }

    /// Words, quotes and operators in random order: whatever is accepted has in bash exactly the references that were found.
    #[test]
    fn sees_what_bash_sees() {
        const PIECES: &str = "export ¦A=¦B=¦op://v/i/f¦op://w/i/f¦op:¦//v/i/f¦x¦ ¦\n¦\n¦;¦'¦'¦\"¦\"¦\\¦\\\n¦#¦ # ¦$A¦${B}¦$(¦`¦)¦(¦{ ¦}¦ && ¦ || \
            ¦ | ¦ & ¦if true\nthen ¦\nfi\n¦case x in x) ¦;; esac\n¦[[ ¦ ]]¦<<<¦\nf() {\n¦for i in 1\ndo ¦\ndone\n¦$'¦echo ¦!¦{A,B}=¦unset A\n\
            ¦\nA=op://v/i/f\n¦\nexport B='op://w/i/f'¦\nexport A=\"op://v/i/f\" ¦A=x¦A+=";
        let pieces: Vec<&str> = PIECES.split('¦').collect();
        let mut random = fastrand::Rng::with_seed(SEED);
        let (mut script, mut expected) = (PRELUDE.to_owned(), Vec::new());
        for _ in 0..40_000 {
            let text: String = (0..random.usize(2..12)).map(|_| pieces[random.usize(..pieces.len())]).collect();
            let Some(found) = parse(text.as_bytes(), Path::new("f")).ok().and_then(|found| unite(found).ok()) else {
                continue;
            };
            if text.contains("op:") {
                let mut found: Vec<String> = found.iter().map(|v| format!("{}={}", v.name, v.reference)).collect();
                found.sort_unstable();
                script.push_str(&format!("try '{}'\n", text.replace('\'', "'\\''")));
                expected.push((text, found.concat()));
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, script).unwrap();
        // Nothing is on the PATH.
        let output = Command::new("/bin/bash").arg(file.path()).env_clear().env("PATH", "").output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let mut compared = 0;
        for ((text, expected), seen) in expected.iter().zip(output.split('\0')) {
            assert!(seen == expected || seen == "?", "{text:?}: {expected:?} was found, but bash sees {seen:?}");
            compared += usize::from(!seen.is_empty() && seen != "?");
        }
        assert!(compared > 500, "of {}, only {compared} were compared", expected.len());
    }

    const SEED: u64 = 7;

    /// What bash cannot parse it would not run: `?`.
    const PRELUDE: &str = r#"try() {
        (
            eval "f() { :
                $1
            }" && unset -f f || { printf '?'; exit; }
            eval "$1" >/dev/null
            for name in A B; do [[ ${!name} != op:* ]] || printf %s "$name=${!name}"; done
        ) 2>/dev/null </dev/null
        printf '\0'
    }
    "#;

    #[test]
    fn never_panics() {
        let mut random = fastrand::Rng::with_seed(SEED);
        let bytes = b" \n;&|<>()#'\"\\$`{}[]=!Aop:/case\xff\0\xc3\xa4";
        for _ in 0..20_000 {
            let text: Vec<u8> = (0..random.usize(..40)).map(|_| bytes[random.usize(..bytes.len())]).collect();
            let _ = parse(&text, Path::new("f"));
        }
    }
}

//! The lines of an `.envrc`.

use std::sync::LazyLock;

use regex::bytes::Regex;

use super::error::Problem;
use super::variable::is_name;

/// `export NAME=VALUE`. A valid [reference](crate::reference) has no quotes, backslashes or `$`, so the value needs no unquoting.
static DECLARATION: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"^export ([A-Z_a-z0-9]+)=("[^"']*"|'[^"']*'|[^"' \t]*)(?:[ \t]+(?:#.*)?)?$"#));

/// `NAME=VALUE` or `export NAME=VALUE`, whatever the value is.
static ASSIGNMENT: LazyLock<Regex> = LazyLock::new(|| regex(r"^(?:export )?([A-Z_a-z0-9]+)="));

static REFERENCE: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i)op://"));
static COMMENT: LazyLock<Regex> = LazyLock::new(|| regex(r"^[ \t]*#"));
static NO_REFERENCE: LazyLock<Regex> = LazyLock::new(|| regex(r"(?:^|[ \t])# no reference[ \t]*\r?$"));

/// Name and value of each reference that a file declares, with its line from 1; or why a line with `op://` declares none.
pub(super) fn declarations(text: &[u8]) -> impl Iterator<Item = (usize, Result<(&str, &str), Problem>)> {
    let mut continues = false;
    lines(text).filter_map(move |(number, line)| {
        let is_comment = COMMENT.is_match(line);
        let is_continued = std::mem::replace(&mut continues, !is_comment && line.ends_with(b"\\"));
        // bash drops a NUL byte, which could hide `op://`.
        let declared = match line.contains(&0) {
            true => Err(Problem::Nul),
            false if is_comment || !REFERENCE.is_match(line) || NO_REFERENCE.is_match(line) => return None,
            false if is_continued => Err(Problem::Continued),
            false => declaration(line),
        };
        Some((number, declared))
    })
}

/// The lines that set a variable to something else, with its name.
pub(super) fn other_assignments(text: &[u8]) -> impl Iterator<Item = (usize, &str)> {
    let is_ignored = |line: &[u8]| !REFERENCE.is_match(line) || NO_REFERENCE.is_match(line);
    lines(text).filter(move |(_, line)| is_ignored(line)).filter_map(|(number, line)| {
        let name = str::from_utf8(ASSIGNMENT.captures(line)?.get(1)?.as_bytes()).ok()?;
        is_name(name).then_some((number, name))
    })
}

fn declaration(line: &[u8]) -> Result<(&str, &str), Problem> {
    let declared = |line| {
        let (_, [name, value]) = DECLARATION.captures(line)?.extract();
        let (name, value) = (str::from_utf8(name).ok()?, str::from_utf8(value).ok()?);
        let is_declaration = is_name(name) && REFERENCE.is_match(value.as_bytes());
        is_declaration.then(|| (name, value.trim_matches(['"', '\''])))
    };
    match (declared(line), line.strip_suffix(b"\r").and_then(declared)) {
        (Some((name, value)), _) if !value.ends_with('\r') => Ok((name, value)),
        (_, Some(_)) => Err(Problem::CarriageReturn),
        _ => Err(Problem::Form),
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    (1..).zip(text.split(|byte| *byte == b'\n'))
}

#[expect(clippy::unwrap_used, reason = "the patterns are constants, and each test of this file compiles them")]
fn regex(pattern: &str) -> Regex {
    Regex::new(&format!("(?-u){pattern}")).unwrap()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::process::Command;

    use super::super::{Variable, parse, unite};
    use super::*;

    fn declared(text: &str) -> Result<Vec<(&str, &str)>, (usize, Problem)> {
        declarations(text.as_bytes()).map(|(line, declared)| declared.map_err(|problem| (line, problem))).collect()
    }

    #[test]
    fn a_reference_is_a_line_of_exactly_one_form() {
        for line in [
            "export A=op://v/i/f",
            "export A=\"op://v/i/f\"",
            "export A='op://v/i/f'",
            "export A=op://v/i/f \t",
            "export A=\"op://v/i/f\"\t # see op://v/i/g, it's \"old\" \\",
            "export A=op://v/i/f #\r",
            "x \\\n# op://v/i/g \\\nexport A=op://v/i/f",
        ] {
            assert_eq!(declared(line), Ok(vec![("A", "op://v/i/f")]), "{line:?}");
        }
        for line in [
            "A=op://v/i/f",
            " export A=op://v/i/f",
            "export  A=op://v/i/f",
            "export\tA=op://v/i/f",
            "export A=op://v/i/f;",
            "export A=\"op://v/i/f\"#comment",
            "export A='op://v/i/f",
            "export A=\"op://v/i/f'",
            "export A=\"'op://v/i/f'\"",
            "export A=op://v/\"i\"/f",
            "export A=op://My Vault/i/f",
            "export A=op://v/i/f B=op://v/i/f",
            "export A= op://v/i/f",
            "export A=b # op://v/i/f",
            "export 1A=op://v/i/f",
            "export A+=op://v/i/f",
            "export A[0]=op://v/i/f",
            "export -n A=op://v/i/f",
            "declare -x A=op://v/i/f",
            "true && export A=op://v/i/f",
            "\u{feff}export A=op://v/i/f",
            "echo OP://v/i/f",
            "echo op://v/i/f #no reference",
            "echo op://v/i/f# no reference",
            "# no reference op://v/i/f\u{b}\u{c}\necho op://v/i/f # no reference, really",
        ] {
            assert!(parse(line.as_bytes(), Path::new("f")).is_err(), "{line:?}");
        }
    }

    #[test]
    fn other_lines_are_ignored() {
        for text in [
            "",
            "layout python\r",
            "  \t# export A=op://v/i/f",
            "#op://",
            "export A=$(describe)",
            "cat <<E\nfi ' \" `\nE",
            "echo op://v/i/f # no reference \t\r",
            "export A=op://v/i/f # no reference",
            "# no reference op://",
        ] {
            assert_eq!(declared(text), Ok(vec![]), "{text:?}");
        }
        assert!(declarations(b"export L='\xe4'\n# \xff op://").next().is_none());
    }

    #[test]
    fn refuses_what_bash_would_read_differently() {
        assert_eq!(declared("\nx \\\nexport A=op://v/i/f"), Err((3, Problem::Continued)));
        assert_eq!(declared("\nexport A=op://v/i/f\r"), Err((2, Problem::CarriageReturn)));
        assert_eq!(declared("export A=\"op://v/i/f\" \r\n"), Err((1, Problem::CarriageReturn)));
        assert_eq!(declared("\n# \0"), Err((2, Problem::Nul)));
        assert_eq!(declared("export A=op:\0//v/i/f"), Err((1, Problem::Nul)));
    }

    #[test]
    fn names_the_variables_of_other_lines() {
        let text =
            "export A=op://v/i/f\nexport B=c\nD='e'\nF=op://x # no reference\n=g\nexport H\n1I=j\nK+=l\n#M=n\n--o=p";
        assert_eq!(other_assignments(text.as_bytes()).collect::<Vec<_>>(), [(2, "B"), (3, "D"), (4, "F")]);
    }

    /// Generates files of declarations, comments and blank lines, and changes some characters. From each file that is accepted, bash
    /// exports exactly the values that were found.
    #[test]
    fn bash_exports_exactly_what_is_declared() {
        const NAMES: [&str; 5] = ["A", "b", "C_1", "x__y", "value"];
        const VALUES: [&str; 6] =
            ["v/i/f", "My Vault/it.em-1/s/f_1", "v/i/f?attribute=otp", "v//f", "v/i/f g", "v/i/f?ssh-format=openssh"];
        const COMMENTS: [&str; 6] = ["", "", " ", "\t# comment", " # it's \"op://v/i/g\" $( `", " #\\"];
        const BEFORE: [&[u8]; 6] = [b"", b"\n", b"  # comment \\\n", b"#\xff'\n", b" \t\n", b"\\\n"];
        const INSERTED: &str =
            "$A¦$(id)¦`id`¦\\¦\\\"¦$'x'¦!¦{a,b}¦~¦:~¦*¦?¦[a]¦<¦>¦;¦&¦|¦(¦)¦#¦ #¦\r¦\u{b}¦\u{a0}¦=¦'¦\"¦ ¦\t¦\n¦x";
        let inserted: Vec<&str> = INSERTED.split('¦').collect();
        let mut random = fastrand::Rng::with_seed(7);
        let (mut script, mut expected) = (PRELUDE.as_bytes().to_vec(), BTreeMap::new());
        for _ in 0..40_000 {
            let mut text = Vec::new();
            for _ in 0..random.usize(1..4) {
                let quote = random.choice(["", "\"", "'"]).unwrap();
                let [name, value, comment] = [&NAMES[..], &VALUES, &COMMENTS].map(|all| *random.choice(all).unwrap());
                let mut line = format!("export {name}={quote}op://{value}{quote}{comment}\n");
                for _ in 0..random.usize(..3) {
                    let at = random.choice(line.char_indices().collect::<Vec<_>>()).unwrap().0;
                    line.insert_str(at, random.choice(&inserted).unwrap());
                }
                text.extend_from_slice(random.choice(BEFORE).unwrap());
                text.extend_from_slice(line.as_bytes());
            }
            let is_empty = |line: &[u8]| line.trim_ascii().is_empty() || COMMENT.is_match(line);
            if !lines(&text).all(|(_, line)| is_empty(line) || REFERENCE.is_match(line)) {
                continue;
            }
            if let Ok(mut found) = parse(&text, Path::new("f")).and_then(|found| unite(found.variables)) {
                found.sort_by(|a, b| a.name.cmp(&b.name));
                let exported = |found: &Variable| format!("declare -x {}=\"{}\"\n", found.name, found.reference);
                expected.insert(text, found.iter().map(exported).collect::<String>());
            }
        }
        assert!(expected.len() > 2_000, "only {} files were accepted", expected.len());
        for text in expected.keys() {
            let quoted = text.split(|byte| *byte == b'\'').collect::<Vec<_>>().join(&br"'\''"[..]);
            script.extend_from_slice(&[b"try '", &quoted[..], b"'\n"].concat());
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("script"), script).unwrap();
        let mut bash = Command::new("/bin/bash");
        bash.args(["--norc", "script"]).current_dir(&directory).env_clear().env("PATH", "");
        let output = bash.output().unwrap();
        let seen: Vec<_> = output.stdout.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        assert_eq!(seen.len(), expected.len() + 1);
        for ((text, expected), seen) in expected.iter().zip(seen) {
            assert_eq!(*expected, seen, "{:?}", String::from_utf8_lossy(text));
        }
    }

    const PRELUDE: &str = r#"unset -v OLDPWD PATH PWD SHLVL _
    try() {
        (eval "$1"; export -p) 2>&1 </dev/null
        printf '\0'
    }
    "#;
}

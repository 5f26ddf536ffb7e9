//! Secrets as assignments of variables, for shells and as JSON.

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{EnvrcError, Variable};
use crate::secret::Secret;

/// A shell that evaluates the assignments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// bash, and every shell that quotes as POSIX says.
    Bash,
    /// zsh, which does.
    Zsh,
    /// fish, which does not.
    Fish,
    /// bash inside of direnv's functions.
    Direnv,
}

impl Shell {
    /// Every shell.
    pub const ALL: [Shell; 4] = [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Direnv];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Shell::Bash => "bash",
            Shell::Zsh => "zsh",
            Shell::Fish => "fish",
            Shell::Direnv => "direnv",
        }
    }

    /// A command for each variable that exports it.
    ///
    /// # Errors
    /// A secret has a NUL byte, which no variable can hold.
    pub fn assignments(self, values: &[(&Variable, &Secret)]) -> Result<Zeroizing<Vec<u8>>, EnvrcError> {
        let mut text = Zeroizing::new(Vec::new());
        for (Variable { name, text: declared, .. }, secret) in values {
            let command = match self {
                Shell::Bash | Shell::Zsh => format!("export {name}='"),
                Shell::Fish => format!("set --global --export {name} '"),
                // The second time, when .envrc has ended, a variable is set only if it is the reference again. `-g` passes by the
                // local variables of direnv's functions; `+i`, because bash evaluates what is assigned to an integer.
                Shell::Direnv => {
                    format!("[[ ${{_oci_secrets_again-}} && ${{{name}-}} != '{declared}' ]] || declare -gx +i {name}='")
                }
            };
            text.extend_from_slice(command.as_bytes());
            for byte in variable_value(name, secret)? {
                match (byte, self) {
                    (b'\'' | b'\\', Shell::Fish) => text.extend_from_slice(&[b'\\', *byte]),
                    (b'\'', _) => text.extend_from_slice(br"'\''"),
                    _ => text.push(*byte),
                }
            }
            text.extend_from_slice(b"'\n");
        }
        Ok(text)
    }
}

/// The secrets as one JSON object, by variable.
///
/// # Errors
/// A secret has a NUL byte, or is not UTF-8.
pub fn json(values: &[(&Variable, &Secret)]) -> Result<Zeroizing<Vec<u8>>, EnvrcError> {
    let mut object = Map::new();
    for (Variable { name, .. }, secret) in values {
        let text = str::from_utf8(variable_value(name, secret)?);
        let text = text.map_err(|_| EnvrcError::NotText { name: name.clone() })?;
        object.insert(name.clone(), Value::from(text));
    }
    Ok(Zeroizing::new(format!("{:#}\n", Value::from(object)).into_bytes()))
}

/// The bytes of a variable.
///
/// # Errors
/// One is NUL.
pub fn variable_value<'a>(name: &str, secret: &'a Secret) -> Result<&'a [u8], EnvrcError> {
    match secret.expose().contains(&0) {
        true => Err(EnvrcError::Nul { name: name.to_owned() }),
        false => Ok(secret.expose()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// Everything that could mean something to a shell, or be lost on the way.
    const AWKWARD: &[u8] =
        b" canary'\"\\ $HOME `id` $(id) !! ~ # * ? [a] {a,b} ''\\'' \\\n\n\t\x01\x1b\r\x7f \xc3\xa4 \xff\xfe \xed\xa0\x80 \\\xc3'\n\n";

    fn variable(name: &str) -> Variable {
        super::super::argument(&format!("{name}=op://v/i/f")).unwrap()
    }

    #[test]
    fn every_byte_but_nul_comes_through_every_shell() {
        let all: Vec<u8> = (1..=255).collect();
        let secrets = [AWKWARD, &all, b"", b"'", b"\\"].map(|bytes| Secret::new(bytes.to_vec()));
        let expected: Vec<u8> = secrets.iter().flat_map(|secret| [secret.expose(), b"\0"].concat()).collect();
        let variables = ["A", "B", "C", "D", "E"].map(variable);
        let values: Vec<(&Variable, &Secret)> = variables.iter().zip(&secrets).collect();
        for (shell, source) in [
            (Shell::Bash, "bash --norc -c 'eval \"$(cat)\"; exec printenv -0 A B C D E'"),
            (Shell::Bash, "dash -c 'eval \"$(cat)\"; exec printenv -0 A B C D E'"),
            (Shell::Zsh, "zsh -f -c 'setopt rcquotes; eval \"$(cat)\"; exec printenv -0 A B C D E'"),
            (Shell::Fish, "fish --no-config -c 'source; exec printenv -0 A B C D E'"),
            (Shell::Direnv, "bash --norc -euc 'f() { local A; eval \"$(cat)\"; }; f; exec printenv -0 A B C D E'"),
        ] {
            let program = source.split(' ').next().unwrap_or_default();
            if Command::new(program).arg("-c").arg("true").output().is_err() && std::env::var_os("CI").is_none() {
                eprintln!("skipped: no {program}");
                continue;
            }
            let mut command = Command::new("sh");
            command.args(["-c", source]).env("LC_ALL", "C.UTF-8").env("HOME", "/nonexistent");
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(&shell.assignments(&values).unwrap()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.stdout == expected, "{source}: {:?}", String::from_utf8_lossy(&output.stdout));
        }
    }

    #[test]
    fn refuses_bytes_that_a_form_cannot_hold() {
        let (nul, not_text) = (Secret::new(b"a\0".to_vec()), Secret::new(b"\xff".to_vec()));
        let variable = variable("A");
        assert!(matches!(Shell::Bash.assignments(&[(&variable, &nul)]), Err(EnvrcError::Nul { .. })));
        assert!(matches!(json(&[(&variable, &nul)]), Err(EnvrcError::Nul { .. })));
        assert!(matches!(json(&[(&variable, &not_text)]), Err(EnvrcError::NotText { .. })));
    }
}

//! Completions, as a user gets them: TAB is pressed in bash, zsh and fish on a terminal, after every verb.

#![allow(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use regex::Regex;

/// The timeout for the answer to one TAB.
const PATIENCE: Duration = Duration::from_secs(60);

const PROGRAM: &str = env!("CARGO_BIN_EXE_oci-secrets");

const TAB: &str = "\t";
/// Ctrl-U: removes the line.
const KILL_LINE: &str = "\u{15}";

/// A shell, and the commands that prepare it; `$0` is the file with the completions, and `$1` the directory of that file.
struct Kind {
    name: &'static str,
    command: &'static str,
    file: &'static str,
    setup: &'static str,
}

const BASH: Kind = Kind {
    name: "bash",
    command: "bash --norc --noprofile -i",
    file: "oci-secrets",
    setup: "bind 'set show-all-if-ambiguous on'; bind 'set completion-query-items 0'; bind 'set page-completions off'; \
            bind 'set enable-bracketed-paste off'; source $0",
};

const ZSH: Kind = Kind {
    name: "zsh",
    command: "zsh -f -i",
    file: "_oci-secrets",
    setup: "setopt no_list_ambiguous no_beep; fpath=($1 $fpath); autoload -Uz compinit; compinit -u -D",
};

const FISH: Kind = Kind { name: "fish", command: "fish --no-config -i", file: "oci-secrets.fish", setup: "source $0" };

#[test]
fn bash_completes_every_verb() {
    press_tab_after_every_verb(&BASH);
}

#[test]
fn zsh_completes_every_verb() {
    press_tab_after_every_verb(&ZSH);
}

#[test]
fn fish_completes_every_verb() {
    press_tab_after_every_verb(&FISH);
}

fn press_tab_after_every_verb(kind: &Kind) {
    let Some(mut shell) = Shell::start(kind) else { return };
    let verbs = verbs("");
    assert!(verbs.len() > 20, "{verbs:?}");
    for verb in verbs {
        let help = help(&verb);
        let line = format!("oci-secrets{verb} ");
        let names = names(&help);
        if !names.is_empty() {
            let shown = shell.complete(&line, &names);
            assert!(!shown.contains("expire"), "{}: {line}: {shown}", kind.name);
        }
        shell.complete(&format!("{line}--"), &options(&help));
    }
}

/// A shell on a terminal.
struct Shell {
    kind: &'static str,
    child: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    _directory: tempfile::TempDir,
    lines: usize,
}

impl Shell {
    /// Starts a shell with our completions; `None` if it is not installed.
    fn start(kind: &Kind) -> Option<Shell> {
        let is_installed = |name: &str| Command::new("sh").args(["-c", &format!("command -v {name}")]).output();
        if ![kind.name, "script"].iter().all(|name| is_installed(name).unwrap().status.success()) {
            eprintln!("skipped: {} and script are not both installed", kind.name);
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(kind.file);
        let completions = Command::new(PROGRAM).args(["completions", kind.name]).output().unwrap();
        fs::write(&file, completions.stdout).unwrap();
        let binaries = Path::new(PROGRAM).parent().unwrap().display();
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--command", kind.command, "/dev/null"])
            .env_clear()
            .envs([("TERM", "xterm"), ("PS1", "> "), ("LC_ALL", "C.UTF-8")])
            .env("HOME", directory.path())
            .env("PATH", format!("{binaries}:/usr/local/bin:/usr/bin:/bin"))
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, output) = channel();
        let mut terminal = child.stdout.take().unwrap();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = terminal.read(&mut bytes) {
                if sender.send(bytes.iter().take(length).copied().collect()).is_err() {
                    break;
                }
            }
        });
        let input = child.stdin.take().unwrap();
        let mut shell = Shell { kind: kind.name, child, input, output, _directory: directory, lines: 0 };
        let setup = kind.setup.replace("$0", file.to_str().unwrap());
        let setup = setup.replace("$1", shell._directory.path().to_str().unwrap());
        // A large terminal shows all candidates at once.
        shell.run(&format!("stty rows 400 cols 240; {setup}"));
        Some(shell)
    }

    /// Runs a line, and waits until the next prompt.
    fn run(&mut self, line: &str) {
        self.lines += 1;
        let mark = format!("done-{}-", self.lines);
        // The line itself, which the terminal shows, does not contain the mark.
        self.send(&format!("{line}; printf 'done-%s-' {}\n", self.lines));
        self.wait_for(&[&mark]);
    }

    /// Types a line without its end, presses TAB, and waits for all of these words.
    fn complete(&mut self, line: &str, expected: &[String]) -> String {
        self.send(&format!("{line}{TAB}"));
        let shown = self.wait_for(&expected.iter().map(String::as_str).collect::<Vec<_>>());
        self.send(KILL_LINE);
        self.run("true");
        shown
    }

    fn send(&mut self, keys: &str) {
        self.input.write_all(keys.as_bytes()).unwrap();
        self.input.flush().unwrap();
    }

    /// Reads until each of these words was printed, and returns all that was.
    fn wait_for(&mut self, words: &[&str]) -> String {
        let escapes = Regex::new("\u{1b}(\\[[0-9;?>=]*[A-Za-z]|\\][^\u{7}]*\u{7}|[()=>][A-Z0-9]?)").unwrap();
        let begin = Instant::now();
        let mut bytes = Vec::new();
        loop {
            let text = escapes.replace_all(&String::from_utf8_lossy(&bytes), "").into_owned();
            let missing: Vec<_> = words.iter().filter(|word| !has_word(&text, word)).collect();
            if missing.is_empty() {
                return text;
            }
            match self.output.recv_timeout(PATIENCE.saturating_sub(begin.elapsed())) {
                Ok(more) => bytes.extend(more),
                Err(_) => panic!("{}: {missing:?} is missing: {text}", self.kind),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a text has a word that is not a part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric();
    text.match_indices(word).any(|(at, _)| {
        let after = text.get(at + word.len()..).unwrap_or_default();
        !after.starts_with(|c: char| is_part(c) || c == '-') || word.ends_with('-')
    })
}

/// What `--help` prints for a verb.
fn help(verb: &str) -> String {
    let output = Command::new(PROGRAM).args(verb.split_whitespace()).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The verbs below a verb, and so on; each begins with a space.
fn verbs(verb: &str) -> Vec<String> {
    let below = names(&help(verb)).into_iter().flat_map(|name| verbs(&format!("{verb} {name}")));
    [verb.to_owned()].into_iter().chain(below).collect()
}

/// The names of the verbs in a help.
fn names(help: &str) -> Vec<String> {
    let commands = help.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
    let name = |line: &str| Some(line.strip_prefix("  ")?.split(' ').next()?.to_owned());
    commands.lines().filter_map(name).filter(|name| !name.is_empty() && name != "help").collect()
}

/// The options in a help.
fn options(help: &str) -> Vec<String> {
    let option = Regex::new("(?m)^ +(?:-[a-zA-Z], )?(--[a-z-]+)").unwrap();
    option.captures_iter(help).filter_map(|found| Some(found.get(1)?.as_str().to_owned())).collect()
}

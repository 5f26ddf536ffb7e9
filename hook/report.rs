//! Messages: one error line and at most one hint, on standard error and in the system log.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;

use crate::errno::Errno;
use crate::excerpt::is_printable;
use crate::fault::{Class, Fault};
use crate::syslog::{self, CONTAINER, Field, Severity};

/// The most that is written to standard error. Runtimes may not read the pipe of a hook before it ends.
pub const OUTPUT_BYTES_MAX: usize = 4096;

/// The length of a short container id.
const ID_CHARACTERS: usize = 12;

/// Reports the error that ends the program, and returns the exit code.
pub fn failed(program: &str, container: Option<&str>, error: &dyn Fault) -> ExitCode {
    let mut message = String::new();
    if let Some(id) = container {
        let id: String = id.chars().take(ID_CHARACTERS).collect();
        let _ = write!(message, "container {id}: ");
    }
    message.push_str(&chain(error));
    let fields: Vec<Field<'_>> = container.iter().map(|id| Field { name: CONTAINER, value: id }).collect();
    say_with_hint(program, &message, error.hint().as_deref(), &fields);
    ExitCode::from(error.class() as u8)
}

/// Prints a mistake on the command line, and returns the exit code. It is for the person who typed it, and is not logged.
pub fn usage(program: &str, error: &dyn Fault) -> ExitCode {
    write_line(program, "error", &printable(&chain(error)));
    if let Some(hint) = error.hint() {
        write_line(program, "hint", &printable(&hint));
    }
    ExitCode::from(error.class() as u8)
}

/// Prints and logs an error that does not end the program, and its hint.
pub fn print_error(program: &str, message: &str, hint: Option<&str>) {
    say_with_hint(program, message, hint, &[]);
}

/// An error with its causes, and its hint, as they are printed.
pub fn texts(error: &dyn Fault) -> (String, Option<String>) {
    (printable(&chain(error)), error.hint().as_deref().map(printable))
}

/// Makes a panic end the program with its own exit code. The location is printed, but not the message, which can quote a secret.
///
/// Libraries also panic if the kernel refuses them a descriptor, memory or a thread. That is no bug, and has the class of a system call.
pub fn install_panic_hook(program: &'static str) {
    install_panic_hook_with(program, |_| ());
}

/// The same, but also gives the error to a function.
pub fn install_panic_hook_with(program: &'static str, keep: fn(&dyn Fault)) {
    static FIRST: Mutex<()> = Mutex::new(());
    std::panic::set_hook(Box::new(move |panic| {
        // Of several threads, the first reports, and the others wait for the end that it makes.
        let _until_exit = FIRST.lock();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let error = match panic.payload_as_str().and_then(errno_in) {
            Some(errno) => Panic::Kernel { place, errno },
            None => Panic::Bug { place },
        };
        failed(program, None, &error);
        keep(&error);
        std::process::exit(error.class() as i32);
    }));
}

/// The errno of the error that a message of a panic quotes, in the forms of the standard library: `Os { code: 24, …` and `(os error 24)`.
fn errno_in(message: &str) -> Option<Errno> {
    let number = |prefix: &str| {
        let (_, rest) = message.split_once(prefix)?;
        rest.get(..rest.find(|character: char| !character.is_ascii_digit())?)?.parse().ok()
    };
    number("Os { code: ").or_else(|| number("(os error ")).map(|number| io::Error::from_raw_os_error(number).into())
}

/// A panic.
#[derive(Debug, thiserror::Error)]
enum Panic {
    /// A library does not handle that the kernel refuses something.
    #[error("cannot go on without a system call, in {place}")]
    Kernel {
        place: String,
        #[source]
        errno: Errno,
    },
    /// A mistake in this program.
    #[error("this is a bug of ours, in {place}")]
    Bug { place: String },
}

impl Fault for Panic {
    fn class(&self) -> Class {
        match self {
            Panic::Kernel { .. } => Class::Kernel,
            Panic::Bug { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        matches!(self, Panic::Bug { .. }).then(|| "please report it, with this line".to_owned())
    }
}

/// Logs a warning. Nothing is written to standard error on success.
pub fn warn(program: &str, message: &str) {
    syslog::log(Severity::Warning, program, &printable(message), &[]);
}

/// Prints a note on standard error.
pub fn note(program: &str, message: &str) {
    write_line(program, "note", &printable(message));
}

/// An error and its causes, outermost first, joined with `: `.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

fn say_with_hint(program: &str, message: &str, hint: Option<&str>, fields: &[Field<'_>]) {
    say(program, "error", message, fields);
    if let Some(hint) = hint {
        say(program, "hint", hint, fields);
    }
}

fn say(program: &str, label: &str, message: &str, fields: &[Field<'_>]) {
    let message = printable(message);
    write_line(program, label, &message);
    syslog::log(Severity::Error, program, &format!("{label}: {message}"), fields);
}

fn write_line(program: &str, label: &str, message: &str) {
    // In one write, so that programs with the same standard error do not mix theirs.
    let line = format!("{program}: {label}: {message}\n");
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// The message as one line, of at most half of what may be written: an error and a hint make two lines.
fn printable(message: &str) -> String {
    const MESSAGE_BYTES_MAX: usize = OUTPUT_BYTES_MAX / 2 - 64;
    let mut line = String::with_capacity(message.len());
    for character in message.chars() {
        let bytes_before = line.len();
        if !is_printable(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
        if line.len() > MESSAGE_BYTES_MAX {
            line.truncate(bytes_before);
            line.push('…');
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_one_line() {
        assert_eq!(printable("a\nb\u{1b}[31m\tc"), "a\\nb\\u{1b}[31m\\tc");
    }

    #[test]
    fn a_bug_ends_with_its_own_code_and_does_not_quote() {
        const CHILD: &str = "OCI_SECRETS_TEST_PANICS";
        if std::env::var_os(CHILD).is_some() {
            install_panic_hook("test");
            panic!("canary");
        }
        let name = "report::tests::a_bug_ends_with_its_own_code_and_does_not_quote";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(70));
        assert!(stderr.contains("test: error: this is a bug of ours, in hook/report.rs:"), "{stderr}");
        assert!(!stderr.contains("canary"), "{stderr}");
    }

    #[test]
    fn threads_that_panic_at_the_same_time_make_one_report() {
        const CHILD: &str = "OCI_SECRETS_TEST_PANICS";
        if std::env::var_os(CHILD).is_some() {
            install_panic_hook_with("test", |_| std::thread::sleep(std::time::Duration::from_millis(300)));
            let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(|| panic!("canary"))).collect();
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
        let name = "report::tests::threads_that_panic_at_the_same_time_make_one_report";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(70));
        assert_eq!(stderr.matches("test: error: this is a bug of ours").count(), 1, "{stderr}");
    }

    #[test]
    fn a_refused_system_call_in_a_library_is_no_bug() {
        let error = std::io::Error::from_raw_os_error(24);
        for text in [format!("x: {error:?}"), format!("x: {error}")] {
            let errno = errno_in(&text).unwrap();
            let error = Panic::Kernel { place: "tokio/unix.rs:1:2".to_owned(), errno };
            let expected = "cannot go on without a system call, in tokio/unix.rs:1:2: Too many open files (EMFILE)";
            assert_eq!((chain(&error).as_str(), error.class(), error.hint()), (expected, Class::Kernel, None));
        }
        for text in ["canary", "Os { code: ", "(os error x)", "(os error 24"] {
            assert!(errno_in(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_message_never_fills_the_pipe_of_a_runtime() {
        let long = printable(&"ü".repeat(10_000));
        assert!(long.len() <= OUTPUT_BYTES_MAX / 2 && long.ends_with("ü…"));
    }
}

//! `oci-secrets-runtime`: a runtime for engines that cannot be configured to call hooks, such as Docker and containerd.
//!
//! It takes the command line of runc, adds the hook to the bundle of a container that is to be created, and becomes the real
//! runtime, with every argument, variable and descriptor as it found them. Its own options come before those of the runtime:
//! there Docker puts `runtimeArgs`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use jiff::Timestamp;

use crate::engine::{BundleError, HOOK_PATH, Hook, add_hook};
use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::report;
use crate::settings::{SETTINGS_PATH, Settings, SettingsError};

/// How the program calls itself in messages.
pub const PROGRAM: &str = "oci-secrets-runtime";

/// What a manual page says of the program; `--help` is passed to the runtime.
pub const HELP: &str = "\
A wrapper around runc that adds the hook to containers: for engines that cannot be configured to
call hooks, such as Docker. It adds the hook to the bundle of a container that is to be created,
and becomes the real runtime, with every other argument, variable and descriptor.

Usage: oci-secrets-runtime [--runtime PATH] [--hook PATH] [--settings PATH] [--requests NAME] ARGUMENT...

  --runtime PATH   the real runtime [default: runc, on the PATH]
  --hook PATH      the hook [default: /usr/libexec/oci/hooks.d/oci-secrets-hook]
  --settings PATH  the settings file of the hook [default: /etc/oci-secrets/settings.toml]
  --requests NAME  also request what [requests.NAME] in the settings lists, for an engine that passes no
                   annotations

These options come first: in Docker's daemon.json, in runtimeArgs. Everything after them is the
runtime's own command line.
";

/// The runtime that it becomes, and where it is looked for if there is no PATH.
const RUNTIME: &str = "runc";
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The verbs for which a runtime reads a bundle.
const VERBS: [&str; 3] = ["create", "run", "restore"];

/// Options of runc, crun and youki whose value is an argument of its own.
const OPTIONS_WITH_VALUE: [&str; 23] = [
    "--root",
    "--log",
    "--log-format",
    "--log-level",
    "--criu",
    "--rootless",
    "--cgroup-manager",
    "-r",
    "-l",
    "--bundle",
    "-b",
    "--config",
    "-f",
    "--console-socket",
    "--pid-file",
    "--preserve-fds",
    "--image-path",
    "--work-path",
    "--manage-cgroups-mode",
    "--parent-path",
    "--lsm-profile",
    "--lsm-mount-context",
    "--empty-ns",
];

/// Options of theirs that stand alone, before the verb.
const FLAGS: [&str; 8] = ["--debug", "--systemd-cgroup", "--no-pivot", "--usage", "--help", "-h", "--version", "-v"];

/// Options that name another spec than the bundle's.
const OTHER_SPEC: [&str; 2] = ["--config", "-f"];

/// Runs the wrapper that the process was started as.
pub fn run() -> ExitCode {
    report::install_panic_hook(PROGRAM);
    let call = match Call::parse(std::env::args_os().skip(1)) {
        Ok(call) => call,
        Err(error) => return report::failed(PROGRAM, None, &error),
    };
    let outcome = call.prepare();
    // Nothing of this process is left if it becomes the runtime.
    let error = match outcome.and_then(|()| call.become_runtime()) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    call.tell_engine(&error);
    report::failed(PROGRAM, call.container(), &error)
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    runtime: Option<PathBuf>,
    hook: PathBuf,
    settings: Option<PathBuf>,
    /// The set of requests, by its name in the settings.
    requests: Option<String>,
    /// What is the runtime's.
    arguments: Vec<OsString>,
}

enum Never {}

impl Call {
    fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Call, RuntimeError> {
        let mut call =
            Call { runtime: None, hook: HOOK_PATH.into(), settings: None, requests: None, arguments: Vec::new() };
        let mut arguments = arguments.peekable();
        while let Some(option) = arguments.next_if(|argument| is_own(argument)) {
            let value = arguments.next().ok_or_else(|| RuntimeError::NoRuntimeValue { option: lossy(&option) })?;
            match option.as_bytes() {
                b"--runtime" => call.runtime = Some(value.into()),
                b"--hook" => call.hook = value.into(),
                b"--settings" => call.settings = Some(value.into()),
                _ => call.requests = Some(lossy(&value)),
            }
        }
        call.arguments = arguments.collect();
        Ok(call)
    }

    /// Adds the hook to the bundle, if the runtime is about to read one.
    fn prepare(&self) -> Result<(), RuntimeError> {
        let words = Words::of(&self.arguments);
        // Its value could be taken for the verb, and a container would start without the hook.
        if let Some(option) = words.unknown {
            return Err(RuntimeError::RuntimeOption { option: lossy(option) });
        }
        if !words.reads_bundle() {
            return Ok(());
        }
        if words.value(&OTHER_SPEC).is_some() {
            return Err(RuntimeError::RuntimeOption { option: OTHER_SPEC[0].to_owned() });
        }
        let bundle = words.value(&["--bundle", "-b"]).unwrap_or(OsStr::new("."));
        let hook = Hook { path: self.hook.clone(), settings: self.settings.clone() };
        add_hook(Path::new(bundle), &hook, &self.added()?).map_err(RuntimeError::from)
    }

    /// The annotations that the settings have for the containers of this runtime.
    fn added(&self) -> Result<BTreeMap<String, String>, RuntimeError> {
        let Some(name) = &self.requests else { return Ok(BTreeMap::new()) };
        let path = self.settings.as_deref().unwrap_or(Path::new(SETTINGS_PATH));
        let settings = Settings::load(path)?;
        let set = settings.requests.get(name).ok_or_else(|| RuntimeError::NoRequestSet { name: name.clone() })?;
        Ok(set.annotations().clone())
    }

    fn become_runtime(&self) -> Result<Never, RuntimeError> {
        let runtime = self.runtime.clone().or_else(find_runtime).ok_or(RuntimeError::NoRuntime)?;
        let error = Command::new(&runtime).args(&self.arguments).exec();
        Err(RuntimeError::Exec { runtime, errno: error.into() })
    }

    /// Writes the error where the engine looks for the runtime's: only so does it come before the person who started the container.
    fn tell_engine(&self, error: &RuntimeError) {
        let words = Words::of(&self.arguments);
        let Some(path) = words.value(&["--log", "-l"]) else { return };
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        let message = format!("{PROGRAM}: {}{hint}", report::chain(error));
        let line = match words.value(&["--log-format"]) {
            Some(format) if format == "json" => {
                serde_json::json!({ "level": "error", "msg": message, "time": Timestamp::now().to_string() })
                    .to_string()
            }
            _ => message,
        };
        // Standard error and the system log have it, too.
        let _ = OpenOptions::new().append(true).create(true).open(path).and_then(|mut log| writeln!(log, "{line}"));
    }

    /// The id of a container that is to be created, which stands last.
    fn container(&self) -> Option<&str> {
        let id = self.arguments.last()?.to_str();
        id.filter(|_| Words::of(&self.arguments).reads_bundle())
    }
}

/// Whether it is an option of ours.
fn is_own(argument: &OsStr) -> bool {
    ["--runtime", "--hook", "--settings", "--requests"].iter().any(|option| argument == *option)
}

/// A runtime's command line, as far as it matters here.
struct Words<'a> {
    verb: Option<&'a OsStr>,
    options: Vec<(&'a [u8], &'a OsStr)>,
    /// An option before the verb that may have a value or not.
    unknown: Option<&'a OsStr>,
}

impl<'a> Words<'a> {
    fn of(arguments: &'a [OsString]) -> Words<'a> {
        let mut words = Words { verb: None, options: Vec::new(), unknown: None };
        let mut arguments = arguments.iter().map(OsString::as_os_str);
        while let Some(argument) = arguments.next() {
            let bytes = argument.as_bytes();
            if !bytes.starts_with(b"-") {
                words.verb = words.verb.or(Some(argument));
            } else if let Some(at) = bytes.iter().position(|byte| *byte == b'=') {
                let (option, value) = bytes.split_at(at);
                words.options.push((option, OsStr::from_bytes(value.get(1..).unwrap_or_default())));
            } else if OPTIONS_WITH_VALUE.iter().any(|option| option.as_bytes() == bytes) {
                words.options.extend(arguments.next().map(|value| (bytes, value)));
            } else if words.verb.is_none() && !FLAGS.iter().any(|flag| argument == *flag) {
                words.unknown = words.unknown.or(Some(argument));
            }
        }
        words
    }

    fn reads_bundle(&self) -> bool {
        self.verb.is_some_and(|verb| VERBS.iter().any(|name| verb == *name))
    }

    /// The value of an option that has several names. Of several values the last counts.
    fn value(&self, names: &[&str]) -> Option<&'a OsStr> {
        let is_named = |option: &[u8]| names.iter().any(|name| name.as_bytes() == option);
        self.options.iter().rev().find(|(option, _)| is_named(option)).map(|(_, value)| *value)
    }
}

/// The first runc on the PATH that is not this program under its name.
fn find_runtime() -> Option<PathBuf> {
    let own = std::env::current_exe().and_then(std::fs::canonicalize).ok();
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let candidates = std::env::split_paths(&path).map(|directory| directory.join(RUNTIME));
    candidates.filter(|candidate| candidate.is_file()).find(|candidate| std::fs::canonicalize(candidate).ok() != own)
}

fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

/// Why the wrapper does not become the runtime.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum RuntimeError {
    /// One of the wrapper's own options at the end of the command line.
    #[error("{option} needs a value")]
    NoRuntimeValue { option: String },
    /// An option of the real runtime that may make it read another spec than the one that gets the hook.
    #[error("refusing to start a runtime with {option:?}: the hook may not come to where it reads its spec")]
    RuntimeOption { option: String },
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A set of requests that the settings do not have.
    #[error("the settings have no [requests.{name}]")]
    NoRequestSet { name: String },
    /// The bundle did not get the hook.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// There is no runc on the PATH.
    #[error("cannot find runc on the PATH")]
    NoRuntime,
    /// The real runtime cannot be run.
    #[error("cannot run {}", .runtime.display())]
    Exec {
        runtime: PathBuf,
        #[source]
        errno: Errno,
    },
}

impl Fault for RuntimeError {
    fn class(&self) -> Class {
        match self {
            RuntimeError::NoRuntimeValue { .. } | RuntimeError::RuntimeOption { .. } => Class::CommandLine,
            RuntimeError::Settings(error) => error.class(),
            RuntimeError::Bundle(error) => error.class(),
            RuntimeError::NoRequestSet { .. } | RuntimeError::NoRuntime | RuntimeError::Exec { .. } => Class::Settings,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            RuntimeError::Settings(error) => return error.hint(),
            RuntimeError::Bundle(error) => return error.hint(),
            RuntimeError::NoRuntimeValue { .. } => {
                "before runc's own options it takes --runtime PATH, --hook PATH, --settings PATH and --requests NAME"
            }
            RuntimeError::RuntimeOption { .. } => {
                "options of runc, crun and youki are known, and their spec must be config.json in the bundle"
            }
            RuntimeError::NoRequestSet { .. } => {
                "add it, or change `--requests` where the engine names oci-secrets-runtime"
            }
            RuntimeError::NoRuntime | RuntimeError::Exec { .. } => {
                "`--runtime PATH` before runc's own options names the runtime"
            }
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Result<Call, RuntimeError> {
        Call::parse(line.split_whitespace().map(OsString::from))
    }

    fn words(line: &str) -> (Option<String>, Option<String>) {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let words = Words::of(&arguments);
        (words.verb.map(lossy), words.value(&["--bundle", "-b"]).map(lossy))
    }

    #[test]
    fn takes_its_own_options_only_before_those_of_the_runtime() {
        let call_of = call("--requests billing --hook /h --root /r create --settings /s x").unwrap();
        let arguments = "--root /r create --settings /s x".split(' ').map(OsString::from).collect();
        let (requests, hook) = (Some("billing".to_owned()), "/h".into());
        assert_eq!(call_of, Call { runtime: None, hook, settings: None, requests, arguments });
        assert_eq!(call("--version").unwrap().arguments, ["--version"]);
        assert!(matches!(call("--requests"), Err(RuntimeError::NoRuntimeValue { .. })));
    }

    #[test]
    fn refuses_what_could_hide_the_verb_or_the_spec() {
        let refused = |line: &str| match call(line).unwrap().prepare() {
            Err(RuntimeError::RuntimeOption { option }) => option,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(refused("--option value create --bundle /nowhere x"), "--option");
        assert_eq!(refused("-root /r create --bundle /nowhere x"), "-root");
        assert_eq!(refused("create --bundle /nowhere --config /spec.json x"), "--config");
        assert_eq!(refused("run -b /nowhere -f /spec.json x"), "--config");
        for line in ["--systemd-cgroup --root /r state x", "--option=value state x", "exec --option x create", "-v"] {
            assert!(call(line).unwrap().prepare().is_ok(), "{line}");
        }
    }

    #[test]
    fn finds_the_verb_and_the_bundle_among_other_options() {
        let found = |verb: &str, bundle: &str| (Some(verb.to_owned()), Some(bundle.to_owned()));
        for line in [
            "--root /run/runc --log /l/log.json --log-format json create --bundle /b --pid-file /p x",
            "--root=/run/runc --systemd-cgroup create -b /b x",
            "--debug create --bundle=/b --no-pivot x",
            "create --console-socket /s -b /other -b=/b --preserve-fds 3 x",
            "--log-level debug --cgroup-manager disabled create x --bundle /b",
        ] {
            assert_eq!(words(line), found("create", "/b"), "{line}");
        }
        assert_eq!(words("--root /create state x"), (Some("state".to_owned()), None));
        assert_eq!(words("run x"), (Some("run".to_owned()), None));
        assert_eq!(words("--version"), (None, None));
    }
}

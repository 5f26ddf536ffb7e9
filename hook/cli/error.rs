//! Why `oci-secrets` fails, where no other module says so.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::errno::Errno;
use crate::fault::{AnyFault, Class, Fault};
use crate::reference::Reference;
use crate::seal::SealError;
use crate::seal::kek::KekError;
use crate::settings::FileError;

/// Why a verb fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A command line that `oci-secrets` does not have.
    #[error("{message}")]
    CommandLine { message: String, tip: Option<String> },
    /// One of 1Password's variables that names no source; the reason never quotes its value.
    #[error("cannot use {name} of the environment: {reason}")]
    Variable { name: &'static str, reason: String },
    /// A secret was not sealed.
    #[error("cannot seal a value for {reference}")]
    Seal { reference: Reference, source: SealError },
    /// A sealed value was not opened.
    #[error("cannot unseal the value for {reference}")]
    Unseal { reference: Reference, source: SealError },
    /// A value that is stored in 1Password was not opened, or not moved.
    #[error("cannot unseal the value of {name}")]
    Stored { name: String, source: SealError },
    /// `rewrap` did not move some values, and has printed which.
    #[error("{failed} of {values} values could not be moved, and stay as they were")]
    Rewrap { failed: usize, values: usize, class: Class },
    /// A KEK is not made.
    #[error("cannot make a KEK")]
    MakeKek { source: KekError },
    /// Nothing to seal.
    #[error("refusing to seal an empty secret")]
    EmptySecret,
    /// A field that has a value, without consent to replace it.
    #[error("refusing to replace the value of {reference}")]
    HasValue { reference: Reference },
    /// Two different secrets were typed.
    #[error("refusing to seal: what was typed first and second differs")]
    TypedTwice,
    /// More input than any secret or sealed value has.
    #[error("cannot read standard input: it is longer than {limit} bytes")]
    LongInput { limit: u64 },
    /// Standard input or the terminal.
    #[error("cannot read the input")]
    Input {
        #[source]
        errno: Errno,
    },
    /// Standard output.
    #[error("cannot write the output")]
    Output {
        #[source]
        errno: Errno,
    },
    /// Output for programs.
    #[error("cannot write the output as JSON")]
    Json { source: serde_json::Error },
    /// The manual pages.
    #[error("cannot write manual pages to {}", directory.display())]
    Pages {
        directory: PathBuf,
        #[source]
        errno: Errno,
    },
    /// The asynchronous runtime.
    #[error("cannot prepare for the network")]
    Runtime {
        #[source]
        errno: Errno,
    },
    /// The hook that the engine would call.
    #[error("refusing to make an engine call a hook that does not run")]
    Hook { source: FileError },
    /// A bundle whose container requests secrets, and whose runtime will not call the hook.
    #[error("{} does not call the hook: the container would start without its secrets", path.display())]
    NotCalled { path: PathBuf },
    /// `explain` found problems, and has printed them.
    #[error("{}", match problems { 1 => "1 problem was found".to_owned(), many => format!("{many} problems were found") })]
    Explain { problems: usize, class: Class },
    /// A word of `explain` that names nothing.
    #[error("no file, bundle or container {name:.120?}")]
    NoTarget { name: String },
    /// A name of `explain` that several engines have.
    #[error("{engines} have a container {name:.120?}")]
    Ambiguous { name: String, engines: String },
    /// `explain --last` with a reference.
    #[error("a reference has no last refusal: expected a container")]
    NoContainer,
    /// The hook has refused nothing, or not this.
    #[error("no refusal of {} is kept", container.as_ref().map_or("a container".to_owned(), |name| format!("container {name:.120?}")))]
    NoRefusal { container: Option<String> },
    /// Variables that are not set.
    #[error("cannot set {names}")]
    Unset { names: String, source: AnyFault },
    /// Secrets that would be shown.
    #[error("refusing to print secrets on a terminal, which keeps what it shows")]
    Terminal,
    /// A command that cannot be run.
    #[error("cannot run {}", .program.display())]
    Command {
        program: OsString,
        #[source]
        errno: Errno,
    },
    /// The settings name no broker.
    #[error("there is no broker: the settings have no `socket` under [broker]")]
    NoBroker,
    /// `refresh` did not update some containers, and has printed which.
    #[error("{failed} of {containers} containers keep the files that they had")]
    Refresh { failed: usize, containers: usize },
    /// `revoke` did not remove the files of some containers, and has printed which.
    #[error("{failed} of {containers} containers keep files that are revoked, or have no record of it")]
    Revoke { failed: usize, containers: usize },
    /// `check` found problems, and has printed them.
    #[error("{problems} of {checks} checks found a problem")]
    Check { problems: usize, checks: usize, class: Class },
}

impl Fault for CliError {
    fn class(&self) -> Class {
        match self {
            CliError::CommandLine { .. }
            | CliError::Terminal
            | CliError::Command { .. }
            | CliError::Ambiguous { .. }
            | CliError::NoContainer => Class::CommandLine,
            CliError::NoTarget { .. } | CliError::NoRefusal { .. } => Class::NotFound,
            CliError::HasValue { .. } => Class::NotPermitted,
            CliError::EmptySecret | CliError::TypedTwice | CliError::LongInput { .. } => Class::Data,
            CliError::Variable { .. } | CliError::NotCalled { .. } | CliError::NoBroker => Class::Settings,
            CliError::Seal { source, .. } | CliError::Unseal { source, .. } | CliError::Stored { source, .. } => {
                source.class()
            }
            CliError::MakeKek { source } => source.class(),
            CliError::Hook { source } => source.class(),
            CliError::Unset { source, .. } => source.class(),
            CliError::Json { .. } => Class::Bug,
            CliError::Input { .. }
            | CliError::Output { .. }
            | CliError::Pages { .. }
            | CliError::Runtime { .. }
            | CliError::Refresh { .. }
            | CliError::Revoke { .. } => Class::Kernel,
            CliError::Check { class, .. } | CliError::Explain { class, .. } | CliError::Rewrap { class, .. } => *class,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            CliError::CommandLine { tip: Some(tip), .. } => tip,
            CliError::CommandLine { tip: None, .. } => {
                "`oci-secrets --help` shows the commands, `oci-secrets COMMAND --help` its arguments"
            }
            CliError::Variable { .. } => {
                "OP_CONNECT_HOST and OP_CONNECT_TOKEN go together; [connect] in the settings goes before both"
            }
            CliError::Seal { source, reference } | CliError::Unseal { source, reference } => {
                return source.hint_for(reference);
            }
            CliError::MakeKek { source } => return source.hint(),
            CliError::Hook { source } => {
                return source.hint().or_else(|| Some("`--hook PATH` says where the hook is installed".to_owned()));
            }
            CliError::NotCalled { .. } => {
                "name the hook in its `hooks`, or let the engine do so: `oci-secrets install` makes it"
            }
            CliError::NoTarget { .. } => {
                "podman, docker and ctr do not know it, or are not on the PATH; `--engine ENGINE` shows what one of them answers"
            }
            CliError::HasValue { .. } => "`--overwrite` replaces it; 1Password keeps the previous version of the item",
            CliError::Ambiguous { .. } => "`--engine ENGINE` chooses one",
            CliError::NoBroker => "`--settings PATH` names other settings; only the broker updates running containers",
            CliError::Revoke { .. } => "stop these containers; `oci-secrets revoke` again tries again",
            CliError::NoContainer => "`oci-secrets explain REFERENCE` tests a reference",
            CliError::NoRefusal { .. } => {
                "each user has the refusals of its own hooks, since boot: with root's engines, run this as root"
            }
            CliError::Unset { source, .. } => return source.hint(),
            CliError::Terminal => "`eval \"$(oci-secrets env)\"` sets them in bash and zsh; `--show` prints them here",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

//! Every way in which a program of this project can fail, its exit code ([`class`]), and what can be done about it (`hint.rs`).

pub mod class;
pub mod hint;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::audit::AuditError;
use crate::break_glass::BreakGlassError;
use crate::container::{ProcessError, RequestError, SpecError, StateError};
use crate::deliver::{AttachError, CarryError, PreflightError, PrivateError, TmpfsError};
use crate::engine::{BundleError, EngineError, InstallError};
use crate::envrc::EnvrcError;
use crate::errno::{Errno, SyscallError};
use crate::reference::Reference;
use crate::resolve::ResolveError;
use crate::seal::SealError;
use crate::seal::kek::{KekError, KekUriError};
use crate::settings::{FileError, Refusal, SettingsError};
use crate::source::SourceError;
use crate::token::TokenError;
use class::Class;

/// Why a program ends without having done what it was called for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument that the hook does not have.
    #[error("unknown argument {found:.120?}")]
    Argument {
        /// The argument.
        found: String,
    },
    /// A command line that `oci-secrets` does not have.
    #[error("{message}")]
    CommandLine {
        /// What is wrong with it.
        message: String,
        /// What may have been meant.
        tip: Option<String>,
    },
    /// `--settings` at the end of the command line.
    #[error("--settings needs a path")]
    NoValue,
    /// The environment that the hook was given cannot be left behind.
    #[error("refusing to go on with an environment of others")]
    Environment {
        /// What the kernel answered.
        source: SyscallError,
    },
    /// The state on standard input.
    #[error(transparent)]
    State(StateError),
    /// The annotations.
    #[error(transparent)]
    Request(RequestError),
    /// The bundle's `config.json`.
    #[error(transparent)]
    Spec(SpecError),
    /// Neither the spec nor an annotation says who shall own the files.
    #[error("cannot tell who shall own the secrets: the spec has no process.user")]
    NoOwner,
    /// The container's process and namespaces.
    #[error(transparent)]
    Process(ProcessError),
    /// The settings, or a file that they name.
    #[error(transparent)]
    Settings(SettingsError),
    /// What goes through 1Password Connect alone, on a host without it.
    #[error("the settings have no [connect]")]
    NoSource,
    /// A variable of 1Password's that names no source.
    #[error("cannot use {name} of the environment: {reason}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// What is wrong with it, never its value.
        reason: String,
    },
    /// The grants.
    #[error(transparent)]
    Grant(Refusal),
    /// A token, apart from what it is for.
    #[error(transparent)]
    Token(TokenError),
    /// The source, apart from any request.
    #[error(transparent)]
    Source(SourceError),
    /// A request.
    #[error(transparent)]
    Resolve(ResolveError),
    /// The spec leaves no place for the secrets.
    #[error(transparent)]
    Preflight(PreflightError),
    /// What the container already has where the secrets will be.
    #[error(transparent)]
    Carry(CarryError),
    /// The tmpfs.
    #[error(transparent)]
    Tmpfs(TmpfsError),
    /// The tmpfs's way into the container.
    #[error(transparent)]
    Attach(AttachError),
    /// The audit trail.
    #[error(transparent)]
    Audit(AuditError),
    /// Break-glass.
    #[error(transparent)]
    BreakGlass(BreakGlassError),
    /// A secret was not sealed.
    #[error("cannot seal a value for {reference}")]
    Seal {
        /// The field that it is for.
        reference: Reference,
        /// What the seal says.
        source: SealError,
    },
    /// A sealed value was not opened, apart from any container.
    #[error("cannot unseal the value for {reference}")]
    Unseal {
        /// The field that it was sealed for.
        reference: Reference,
        /// What the seal says.
        source: SealError,
    },
    /// A value that is stored in 1Password and was not opened, or not moved.
    #[error("cannot unseal the value of {name}")]
    Stored {
        /// Where it is.
        name: String,
        /// What the seal says.
        source: SealError,
    },
    /// `rewrap` did not move some, and told them already.
    #[error("{failed} of {values} values could not be moved, and stay as they were")]
    Rewrap {
        /// How many.
        failed: usize,
        /// Of how many.
        values: usize,
        /// The class of the first one.
        class: Class,
    },
    /// A URI in the settings that is no KEK's.
    #[error(transparent)]
    KekUri(KekUriError),
    /// A KEK, apart from any sealed value.
    #[error(transparent)]
    Kek(KekError),
    /// A KEK that is not made.
    #[error("cannot make a KEK")]
    MakeKek {
        /// What its kind says.
        source: KekError,
    },
    /// Nothing to seal.
    #[error("refusing to seal an empty secret")]
    EmptySecret,
    /// Two different secrets were typed.
    #[error("refusing to seal: what was typed first and second differs")]
    TypedTwice,
    /// More input than any secret or sealed value has.
    #[error("cannot read standard input: it is longer than {limit} bytes")]
    LongInput {
        /// The most that is read.
        limit: u64,
    },
    /// Standard input or the terminal.
    #[error("cannot read the input")]
    Input {
        /// What the kernel answered.
        #[source]
        errno: Errno,
    },
    /// Standard output.
    #[error("cannot write the output")]
    Output {
        /// What the kernel answered.
        #[source]
        errno: Errno,
    },
    /// Output for programs.
    #[error("cannot write the output as JSON")]
    Json {
        /// The library's account.
        source: serde_json::Error,
    },
    /// The manual pages.
    #[error("cannot write manual pages to {}", directory.display())]
    Pages {
        /// Where they should go.
        directory: PathBuf,
        /// What the kernel answered.
        #[source]
        errno: Errno,
    },
    /// The asynchronous runtime.
    #[error("cannot prepare for the network")]
    Runtime {
        /// What the kernel answered.
        #[source]
        errno: Errno,
    },
    /// An engine's configuration.
    #[error(transparent)]
    Engine(EngineError),
    /// The hook that an engine shall call.
    #[error("refusing to make an engine call a hook that does not run")]
    Hook {
        /// What is wrong with it.
        source: FileError,
    },
    /// A file that makes an engine call the hook.
    #[error(transparent)]
    Install(InstallError),
    /// A bundle that cannot get the hook.
    #[error(transparent)]
    Bundle(BundleError),
    /// An option of `oci-secrets-runtime` at the end of the command line.
    #[error("{option} needs a value")]
    NoRuntimeValue {
        /// The option.
        option: String,
    },
    /// An option of the real runtime that may make it read something else than it seems.
    #[error("refusing to start a runtime with {option:?}: the hook may not come to where it reads its spec")]
    RuntimeOption {
        /// The option.
        option: String,
    },
    /// A set of requests that the settings do not have.
    #[error("the settings have no [requests.{name}]")]
    NoRequestSet {
        /// Its name.
        name: String,
    },
    /// There is no runc on the PATH.
    #[error("cannot find runc on the PATH")]
    NoRuntime,
    /// The real runtime cannot be run.
    #[error("cannot run {}", .runtime.display())]
    Exec {
        /// The runtime.
        runtime: PathBuf,
        /// What the kernel answered.
        #[source]
        errno: Errno,
    },
    /// A bundle whose container asks for secrets, and whose runtime will not call us.
    #[error("{} does not call the hook: the container would start without its secrets", path.display())]
    NotCalled {
        /// The spec.
        path: PathBuf,
    },
    /// `explain` found problems and told them already.
    #[error("{}", match problems { 1 => "1 problem was found".to_owned(), many => format!("{many} problems were found") })]
    Explain {
        /// How many.
        problems: usize,
        /// The class of the first one.
        class: Class,
    },
    /// Variables that should have held references.
    #[error(transparent)]
    Envrc(EnvrcError),
    /// Variables that are not set.
    #[error("cannot set {names}")]
    Unset {
        /// Which.
        names: String,
        /// Why not.
        source: Box<Error>,
    },
    /// Secrets that would be shown.
    #[error("refusing to print secrets on a terminal, which keeps what it shows")]
    Terminal,
    /// A delivery to this process.
    #[error(transparent)]
    Private(PrivateError),
    /// A command that cannot be run.
    #[error("cannot run {}", .program.display())]
    Command {
        /// The command.
        program: OsString,
        /// What the kernel answered.
        #[source]
        errno: Errno,
    },
    /// `check` found problems and told them already.
    #[error("{problems} of {checks} checks found a problem")]
    Check {
        /// How many.
        problems: usize,
        /// Of how many.
        checks: usize,
        /// The class of the first one.
        class: Class,
    },
}

//! Exit codes.

use super::Error;
use crate::audit::AuditError;
use crate::break_glass::BreakGlassError;
use crate::break_glass::channel::ChannelError;
use crate::break_glass::file::{AgeError, IdentityError, RecipientError, SealedError};
use crate::break_glass::ledger::LedgerError;
use crate::break_glass::lock::LockError;
use crate::break_glass::store::StoreError;
use crate::container::ProcessError;
use crate::deliver::{AttachError, CarryError, PrivateError, SiteError, TargetError, TmpfsError};
use crate::engine::{BundleError, EngineError, InstallError};
use crate::envrc::EnvrcError;
use crate::resolve::ResolveError;
use crate::seal::kek::{Fault, KekError};
use crate::seal::{SealError, envelope::EnvelopeError};
use crate::settings::{FileError, SettingsError};
use crate::source::SourceError;
use crate::source::op::OpError;
use crate::token::TokenError;

/// Whose fault it is: the exit code, as `sysexits.h` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The command line.
    CommandLine = 64,
    /// The state, the spec, an annotation or a sealed value.
    Data = 65,
    /// A reference that leads nowhere.
    NotFound = 66,
    /// The source or the KMS, for now.
    Unavailable = 69,
    /// Ours.
    Bug = 70,
    /// The kernel.
    Kernel = 71,
    /// Nobody's: it is not permitted.
    NotPermitted = 77,
    /// The settings.
    Settings = 78,
}

impl Error {
    /// Whose fault it is: the exit code.
    pub fn class(&self) -> Class {
        match self {
            Error::Argument { .. }
            | Error::CommandLine { .. }
            | Error::NoValue
            | Error::NoRuntimeValue { .. }
            | Error::RuntimeOption { .. } => Class::CommandLine,
            Error::State(_) | Error::Request(_) | Error::Spec(_) | Error::NoOwner => Class::Data,
            Error::EmptySecret | Error::TypedTwice | Error::LongInput { .. } => Class::Data,
            Error::Process(error) => of_process(error),
            Error::Settings(SettingsError::File(error)) => of_file(error),
            Error::Settings(_) | Error::NoSource | Error::Variable { .. } | Error::KekUri(_) => Class::Settings,
            Error::Grant(_) => Class::NotPermitted,
            Error::Token(error) => of_token(error),
            Error::Source(error) => of_source(error),
            Error::Resolve(error) => of_resolve(error),
            Error::Seal { source: error, .. }
            | Error::Stored { source: error, .. }
            | Error::Unseal { source: error, .. } => of_seal(error),
            Error::Kek(error) | Error::MakeKek { source: error } => of_kek(error),
            Error::Preflight(_) => Class::NotPermitted,
            Error::Carry(error) => of_carry(error),
            Error::Tmpfs(TmpfsError::Taken { .. }) => Class::Data,
            Error::Tmpfs(_) => Class::Kernel,
            Error::Attach(error) => of_attach(error),
            Error::Audit(error) => of_audit(error),
            Error::Json { .. } => Class::Bug,
            Error::Environment { .. }
            | Error::Input { .. }
            | Error::Output { .. }
            | Error::Pages { .. }
            | Error::Runtime { .. } => Class::Kernel,
            Error::Hook { source } | Error::Engine(EngineError::Hook { source, .. }) => of_file(source),
            Error::Engine(EngineError::NotDescribed { .. }) => Class::NotFound,
            Error::Engine(_) | Error::Install(InstallError::Exists { .. }) => Class::Settings,
            Error::Install(InstallError::Write { .. }) => Class::Kernel,
            Error::Bundle(BundleError::Spec(_) | BundleError::Json { .. }) => Class::Data,
            Error::Bundle(BundleError::Write { .. }) => Class::Kernel,
            Error::NoRequestSet { .. } | Error::NoRuntime | Error::Exec { .. } | Error::NotCalled { .. } => {
                Class::Settings
            }
            Error::Envrc(EnvrcError::Read { .. } | EnvrcError::Argument | EnvrcError::Value { .. })
            | Error::Terminal
            | Error::Command { .. }
            | Error::Private(PrivateError::Directory { .. }) => Class::CommandLine,
            Error::Envrc(_) => Class::Data,
            Error::Private(_) => Class::Kernel,
            Error::Unset { source, .. } => source.class(),
            Error::BreakGlass(error) => of_break_glass(error),
            Error::Check { class, .. } | Error::Explain { class, .. } | Error::Rewrap { class, .. } => *class,
        }
    }
}

/// Whose fault it is that a request has no secret.
pub fn of_resolve(error: &ResolveError) -> Class {
    match error {
        ResolveError::Fetch { source, .. } => of_source(source),
        ResolveError::Unseal { source, .. } => of_seal(source),
    }
}

/// Whose fault a file is that cannot be used.
pub fn of_file(error: &FileError) -> Class {
    match error {
        FileError::Open { .. }
        | FileError::Read { .. }
        | FileError::NotRegular { .. }
        | FileError::NotExecutable { .. }
        | FileError::TooLarge { .. } => Class::Settings,
        FileError::Owner { .. }
        | FileError::Writable { .. }
        | FileError::Readable { .. }
        | FileError::DirectoryOwner { .. }
        | FileError::DirectoryWritable { .. } => Class::NotPermitted,
    }
}

fn of_process(error: &ProcessError) -> Class {
    match error {
        ProcessError::OwnMountNamespace | ProcessError::Restored => Class::NotPermitted,
        ProcessError::Gone | ProcessError::UnmappedUid { .. } | ProcessError::UnmappedGid { .. } => Class::Data,
        _ => Class::Kernel,
    }
}

fn of_source(error: &SourceError) -> Class {
    match error {
        SourceError::NoVault { .. }
        | SourceError::NoItem { .. }
        | SourceError::ArchivedItem { .. }
        | SourceError::NoSection { .. }
        | SourceError::NoField { .. }
        | SourceError::NoValue { .. } => Class::NotFound,
        SourceError::ManyVaults { .. }
        | SourceError::ManyItems { .. }
        | SourceError::ManyFields { .. }
        | SourceError::NotText { .. }
        | SourceError::NoKeyFormats => Class::Data,
        SourceError::Changed { .. } => Class::Data,
        SourceError::Unauthorized { .. } | SourceError::Forbidden { .. } => Class::NotPermitted,
        SourceError::File { source } => of_file(source),
        SourceError::Op(error) => of_op(error),
        SourceError::NoSource | SourceError::NotChosen | SourceError::NoConnect => Class::Settings,
        SourceError::UnusableCertificates { .. } => Class::Settings,
        SourceError::Token { source } => of_token(source),
        SourceError::NoAnswer { .. }
        | SourceError::Unreachable { .. }
        | SourceError::Limited { .. }
        | SourceError::Redirected { .. }
        | SourceError::Status { .. }
        | SourceError::TooLarge { .. }
        | SourceError::NotConnect { .. }
        | SourceError::NotStored { .. }
        | SourceError::NoClient { .. } => Class::Unavailable,
    }
}

fn of_op(error: &OpError) -> Class {
    match error {
        OpError::File { source } => of_file(source),
        OpError::UnusableToken | OpError::NoPerson | OpError::OnDisk { .. } | OpError::Run { .. } => Class::Settings,
        OpError::NoHome { .. } | OpError::NoRandom => Class::Kernel,
        OpError::NotSignedIn { .. }
        | OpError::NotLetIn { .. }
        | OpError::Unauthorized { .. }
        | OpError::Outdated(_) => Class::NotPermitted,
        OpError::Many => Class::Data,
        OpError::NoAnswer { .. }
        | OpError::TooLarge { .. }
        | OpError::Shape
        | OpError::Killed { .. }
        | OpError::Limited { .. }
        | OpError::Server { .. }
        | OpError::Unreachable { .. }
        | OpError::Failed { .. } => Class::Unavailable,
    }
}

fn of_token(error: &TokenError) -> Class {
    match error {
        TokenError::File { source } | TokenError::Program { source } => of_file(source),
        TokenError::NotALine
        | TokenError::NoGithubVariable { .. }
        | TokenError::GithubUrl { .. }
        | TokenError::NoGitlabVariable { .. }
        | TokenError::Start { .. } => Class::Settings,
        TokenError::Expired { .. } | TokenError::Outdated(_) | TokenError::GithubRefused { .. } => Class::NotPermitted,
        TokenError::NoAnswer { .. }
        | TokenError::Unreachable { .. }
        | TokenError::Status { .. }
        | TokenError::NotGithub { .. }
        | TokenError::NoClient { .. }
        | TokenError::Failed { .. }
        | TokenError::TooMuch { .. } => Class::Unavailable,
    }
}

fn of_seal(error: &SealError) -> Class {
    match error {
        SealError::Kek { source } => of_kek(source),
        SealError::Envelope { source: EnvelopeError::NoRandom } => Class::Kernel,
        SealError::NotTheSame => Class::Unavailable,
        _ => Class::Data,
    }
}

fn of_kek(error: &KekError) -> Class {
    match error {
        KekError::NotListed { .. } => Class::NotPermitted,
        KekError::EnvelopesOnly => Class::Data,
        KekError::MadeElsewhere => Class::CommandLine,
        KekError::OfKind(error) => match error.error().fault() {
            Fault::Data => Class::Data,
            Fault::Unavailable => Class::Unavailable,
            Fault::Kernel => Class::Kernel,
            Fault::NotPermitted => Class::NotPermitted,
            Fault::Settings => Class::Settings,
            Fault::File(error) => of_file(error),
            Fault::Token(error) => of_token(error),
        },
    }
}

fn of_audit(error: &AuditError) -> Class {
    match error {
        AuditError::Open { source } => of_file(source),
        AuditError::Encode { .. } => Class::Bug,
        AuditError::Read { errno, .. } if errno.is_not_found() => Class::NotFound,
        AuditError::NoFile => Class::Settings,
        AuditError::NotAsWritten { .. } | AuditError::Differ { .. } => Class::Data,
        AuditError::Write { .. } | AuditError::Read { .. } | AuditError::Busy { .. } => Class::Kernel,
    }
}

fn of_break_glass(error: &BreakGlassError) -> Class {
    match error {
        BreakGlassError::NotRoot
        | BreakGlassError::NotConfirmed { .. }
        | BreakGlassError::Expired { .. }
        | BreakGlassError::OtherHost { .. }
        | BreakGlassError::Operators { .. }
        | BreakGlassError::Overdue { .. }
        | BreakGlassError::Store(StoreError::IsOpen | StoreError::NotOurs) => Class::NotPermitted,
        BreakGlassError::SameRecipient { .. }
        | BreakGlassError::Duration { .. }
        | BreakGlassError::Recipient { source: RecipientError::Unknown { .. } }
        | BreakGlassError::Sealed { source: SealedError::Threshold { .. }, .. } => Class::CommandLine,
        BreakGlassError::NoGrant { .. } => Class::Settings,
        BreakGlassError::Nothing | BreakGlassError::NotInFile { .. } | BreakGlassError::NotOwed { .. } => {
            Class::NotFound
        }
        BreakGlassError::References { .. }
        | BreakGlassError::Computed { .. }
        | BreakGlassError::Identity(IdentityError::None { .. })
        | BreakGlassError::Stale { .. }
        | BreakGlassError::Old { .. } => Class::Data,
        BreakGlassError::NotKept { .. } => Class::Unavailable,
        BreakGlassError::File { .. } => Class::Settings,
        BreakGlassError::Sealed { source: SealedError::Age(error), .. }
        | BreakGlassError::Identity(IdentityError::Age { source: error, .. })
        | BreakGlassError::Recipient { source: RecipientError::Age(error) } => of_age(error),
        BreakGlassError::Sealed { source: SealedError::TooFew { .. }, .. } => Class::NotPermitted,
        BreakGlassError::Sealed { .. } => Class::Data,
        BreakGlassError::Channel(error) | BreakGlassError::Unrecorded { source: error } => of_channel(error),
        BreakGlassError::Ledger(error) => of_ledger(error),
        BreakGlassError::Lock(LockError::File { source }) => of_file(source),
        BreakGlassError::Lock(LockError::Busy { .. }) => Class::Unavailable,
        BreakGlassError::Lock(LockError::Open { .. }) => Class::Kernel,
        BreakGlassError::Store(StoreError::Over) => Class::Unavailable,
        BreakGlassError::Store(_) => Class::Kernel,
    }
}

fn of_age(error: &AgeError) -> Class {
    match error {
        // What a plugin says is as a rule that its card is not there, or that the PIN is wrong.
        AgeError::NoMatch | AgeError::Passphrase | AgeError::Plugin { .. } => Class::NotPermitted,
        AgeError::Damaged => Class::Data,
        AgeError::NoPlugin { .. } => Class::Settings,
        AgeError::Incompatible => Class::CommandLine,
    }
}

fn of_channel(error: &ChannelError) -> Class {
    match error {
        ChannelError::None | ChannelError::Same { .. } | ChannelError::Run { .. } => Class::Settings,
        ChannelError::Program { source } => of_file(source),
        ChannelError::Chain(error) => of_audit(error),
        ChannelError::Ledger(error) => of_ledger(error),
        ChannelError::Kept { .. } | ChannelError::Journal { .. } | ChannelError::Syslog { .. } => Class::Kernel,
        ChannelError::Command { .. } | ChannelError::Slow { .. } => Class::Unavailable,
    }
}

fn of_ledger(error: &LedgerError) -> Class {
    match error {
        LedgerError::File { source } => of_file(source),
        LedgerError::Damaged { .. } => Class::Settings,
        LedgerError::Write { .. } | LedgerError::NoRandom => Class::Kernel,
        LedgerError::Encode { .. } => Class::Bug,
    }
}

fn of_target(error: &TargetError) -> Class {
    match error {
        TargetError::Process(error) => of_process(error),
        TargetError::NoOpenat2 | TargetError::Syscall(_) => Class::Kernel,
        _ => Class::NotPermitted,
    }
}

fn of_carry(error: &CarryError) -> Class {
    match error {
        CarryError::Site(SiteError::Process(error)) => of_process(error),
        CarryError::Site(SiteError::Target(error)) => of_target(error),
        CarryError::Site(SiteError::NotMounted { .. } | SiteError::OtherRootfs { .. })
        | CarryError::Shared { .. }
        | CarryError::Special { .. }
        | CarryError::TooMany
        | CarryError::Changed
        | CarryError::NotInPlace { .. } => Class::NotPermitted,
        CarryError::Site(_) | CarryError::Syscall(_) | CarryError::Procfs(_) => Class::Kernel,
    }
}

fn of_attach(error: &AttachError) -> Class {
    match error {
        AttachError::Process(error) => of_process(error),
        AttachError::Carry(error) => of_carry(error),
        AttachError::Target(error) => of_target(error),
        AttachError::Shared | AttachError::NotInPlace | AttachError::Preflight(_) => Class::NotPermitted,
        AttachError::Syscall(_) | AttachError::Procfs(_) | AttachError::Mounts(_) => Class::Kernel,
    }
}

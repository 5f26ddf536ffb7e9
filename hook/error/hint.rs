//! What can be done now.

use std::path::Path;

use super::Error;
use crate::audit::AuditError;
use crate::break_glass::BreakGlassError;
use crate::break_glass::channel::ChannelError;
use crate::break_glass::file::{AgeError, IdentityError, SealedError};
use crate::break_glass::ledger::LedgerError;
use crate::break_glass::lock::LockError;
use crate::break_glass::store::StoreError;
use crate::container::{ProcessError, StateError};
use crate::deliver::{AttachError, CarryError, PreflightError, PrivateError, SiteError, TargetError, TmpfsError};
use crate::engine::{EngineError, InstallError};
use crate::harden::is_initial_user_namespace;
use crate::reference::Reference;
use crate::resolve::ResolveError;
use crate::seal::kek::{Fault, KekError};
use crate::seal::{SealError, envelope::EnvelopeError};
use crate::settings::{FileError, Refusal, SettingsError};
use crate::source::SourceError;
use crate::source::op::OpError;
use crate::token::static_token::OutdatedError;
use crate::token::{Origin, TokenError};

impl Error {
    /// The one thing that can be done about it now, if it is known.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Argument { .. } | Error::NoValue => "`oci-secrets-hook --help` shows the arguments",
            Error::Settings(SettingsError::File(FileError::Open { .. })) => {
                "config/settings.toml is an example to begin with"
            }
            Error::Settings(SettingsError::File(error)) => return file_hint(error),
            Error::Audit(AuditError::Open { source }) => return record_hint(source),
            Error::Audit(AuditError::Busy { .. }) => "`lslocks` shows who holds it",
            Error::Audit(AuditError::NoFile) => {
                "name files, or - to read the system log: journalctl -t oci-secrets-hook -o cat | oci-secrets audit show -"
            }
            Error::Audit(AuditError::NotAsWritten { .. }) => {
                "the system log has each line, too: journalctl -t oci-secrets-hook -o cat"
            }
            Error::Settings(SettingsError::NoJob { .. }) => {
                "name a file on a tmpfs, token = { file = … }, and let the job's step write it: `oci-secrets token --help`"
            }
            Error::Settings(_) => "`oci-secrets check` tests the settings; config/settings.toml explains every key",
            Error::Environment { .. } => "give the hook `env` with PATH alone, as config/hooks.d has it",
            Error::NoSource => "add [connect] with `url` and `token-file`",
            Error::Variable { .. } => {
                "OP_CONNECT_HOST and OP_CONNECT_TOKEN go together; [connect] in the settings goes before both"
            }
            Error::Grant(refusal) => return grant_hint(refusal),
            Error::BreakGlass(error) => return break_glass_hint(error),
            Error::State(StateError::NoPid) => {
                "runc, crun and youki from 0.6 tell a createRuntime hook the pid: use no other stage, and no older youki"
            }
            Error::NoOwner => "set process.user in the spec, or request an owner with the annotation run.secrets.owner",
            Error::Token(error) => return token_hint(error),
            Error::Resolve(ResolveError::Fetch { meant: Some(meant), .. }) => {
                return Some(format!("did you mean {meant}? names are case-sensitive"));
            }
            Error::Source(error) | Error::Resolve(ResolveError::Fetch { source: error, .. }) => {
                return source_hint(error);
            }
            Error::Seal { source: error, reference }
            | Error::Unseal { source: error, reference }
            | Error::Resolve(ResolveError::Unseal { source: error, reference, .. }) => {
                return seal_hint(error, reference);
            }
            Error::CommandLine { tip: Some(tip), .. } => tip,
            Error::CommandLine { tip: None, .. } => {
                "`oci-secrets --help` shows the commands, `oci-secrets COMMAND --help` its arguments"
            }
            Error::Kek(error) | Error::MakeKek { source: error } => return kek_hint(error),
            Error::Process(error) | Error::Attach(AttachError::Process(error)) => return process_hint(error),
            Error::Carry(error) | Error::Attach(AttachError::Carry(error)) => return carry_hint(error),
            Error::Attach(AttachError::Shared) => "make the container's root filesystem a private mount",
            Error::Tmpfs(TmpfsError::Taken { .. }) => {
                "request another file name, or leave the container's own file out"
            }
            Error::Preflight(PreflightError::JoinedMounts) => {
                "give the spec a mount namespace of its own, without `path`"
            }
            Error::Preflight(_) | Error::Attach(AttachError::Preflight(_)) => {
                "leave /run/secrets out of the spec: the hook makes and protects it"
            }
            Error::Tmpfs(TmpfsError::NoNoswap) => {
                "noswap = \"prefer\" under [deliver] in the settings goes on without; then keep swap off or encrypted"
            }
            Error::Engine(EngineError::Hook { source: FileError::Open { .. }, .. }) => {
                "install the hook where the file says, or change the file: `oci-secrets install --hook PATH`"
            }
            Error::Hook { source: FileError::Open { .. } } => "`--hook PATH` says where the hook is installed",
            Error::Hook { source } | Error::Engine(EngineError::Hook { source, .. }) => return file_hint(source),
            Error::Engine(EngineError::Stage { .. } | EngineError::When { .. } | EngineError::Annotations { .. }) => {
                "`oci-secrets install` shows the file as it should be"
            }
            Error::Engine(EngineError::Taken { .. }) => {
                "merge it by hand: packaging/docs/engines.md tells what is needed"
            }
            Error::Engine(EngineError::NoBaseSpec { .. }) => "ctr comes with containerd, and must be on the PATH",
            Error::Engine(EngineError::NotDescribed { program: "ctr", .. }) => {
                "`ctr containers ls` shows them; CONTAINERD_NAMESPACE=k8s.io is where those of Kubernetes are"
            }
            Error::NotCalled { .. } => {
                "name the hook in its `hooks`, or let the engine do so: `oci-secrets install` makes it"
            }
            Error::NoRuntimeValue { .. } => {
                "before runc's own options it takes --runtime PATH, --hook PATH, --settings PATH and --requests NAME"
            }
            Error::RuntimeOption { .. } => {
                "options of runc, crun and youki are known, and their spec must be config.json in the bundle"
            }
            Error::NoRequestSet { .. } => "add it, or change `--requests` where the engine names oci-secrets-runtime",
            Error::NoRuntime | Error::Exec { .. } => "`--runtime PATH` before runc's own options names the runtime",
            Error::Install(InstallError::Exists { .. }) => {
                "without `--write`, `oci-secrets install` shows the content: merge it, or remove the file first"
            }
            Error::Envrc(error) => return error.hint(),
            Error::Unset { source, .. } => return source.hint(),
            Error::Terminal => "`eval \"$(oci-secrets env)\"` sets them in bash and zsh; `--show` prints them here",
            Error::Private(PrivateError::NoUserNamespace { .. }) => {
                "user namespaces are turned off here for users without root; without `--files` the command gets variables"
            }
            Error::Private(PrivateError::Directory { .. }) => "make it first: an empty directory will do",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// What can be done about a file that is not trusted.
pub fn file_hint(error: &FileError) -> Option<String> {
    match error {
        FileError::Writable { path, .. } => Some(format!("chmod go-w {}", path.display())),
        FileError::Readable { path, .. } if is_projected(path) => {
            Some("set `runAsUser` or `fsGroup` for the pod: Kubernetes then gives the token to it alone".into())
        }
        FileError::Readable { path, .. } => Some(format!("chmod 0600 {}", path.display())),
        FileError::Owner { .. } | FileError::DirectoryOwner { .. } if !is_initial_user_namespace() => {
            Some("without root, an engine needs settings, credentials and directories of its user's own".into())
        }
        FileError::Owner { path, .. } => Some(format!("chown root {}", path.display())),
        FileError::DirectoryWritable { directory, .. } => Some(format!("chmod go-w {}", directory.display())),
        FileError::DirectoryOwner { directory, .. } => Some(format!("chown root {}", directory.display())),
        FileError::NotExecutable { path } => Some(format!("chmod 0755 {}", path.display())),
        FileError::Open { .. } | FileError::Read { .. } | FileError::NotRegular { .. } | FileError::TooLarge { .. } => {
            None
        }
    }
}

/// What can be done about a file of records: it is made where there is none, but its directory is not.
fn record_hint(error: &FileError) -> Option<String> {
    match error {
        FileError::Open { path, errno } if errno.is_not_found() => {
            let directory = path.parent().filter(|directory| !directory.exists())?;
            Some(format!("install -d -m 0700 {}", directory.display()))
        }
        other => file_hint(other),
    }
}

fn break_glass_hint(error: &BreakGlassError) -> Option<String> {
    let hint = match error {
        BreakGlassError::NotRoot => "call it with sudo",
        BreakGlassError::NotConfirmed { .. } => "call it on a terminal, or with `--yes`",
        BreakGlassError::Expired { .. } | BreakGlassError::Stale { .. } | BreakGlassError::Old { .. } => {
            "make a new file: `oci-secrets break-glass seal`"
        }
        BreakGlassError::OtherHost { .. } => "`oci-secrets break-glass seal --host NAME` names hosts, `--host '*'` all",
        BreakGlassError::NoGrant { .. } => "add `name` to the grant in the settings",
        BreakGlassError::Operators { .. } => "name each: `--operator NAME --operator NAME`",
        BreakGlassError::Sealed { source: SealedError::TooFew { .. }, .. } => {
            "`--identity` takes the key file of each operator"
        }
        BreakGlassError::Sealed { source: SealedError::Age(AgeError::NoMatch), .. } => {
            "`oci-secrets break-glass inspect` shows for whom it is"
        }
        BreakGlassError::Sealed { source: SealedError::Age(AgeError::NoPlugin { .. }), .. }
        | BreakGlassError::Identity(IdentityError::Age { source: AgeError::NoPlugin { .. }, .. }) => {
            "install the plugin on this host, or use a key that needs none"
        }
        BreakGlassError::Overdue { reference, .. } => {
            return Some(format!(
                "store a new value in 1Password, or `oci-secrets break-glass rotation waive {reference} --reason TEXT`"
            ));
        }
        BreakGlassError::Unrecorded { .. } => "`oci-secrets break-glass close` records it when the channel takes it",
        BreakGlassError::NotOwed { .. } => "`oci-secrets break-glass status` shows what is owed",
        BreakGlassError::Channel(ChannelError::None) => {
            "add audit = { file = \"/var/log/oci-secrets/break-glass.jsonl\" } to [break-glass] in the settings"
        }
        BreakGlassError::Channel(ChannelError::Same { .. }) => "name another file under [break-glass] in the settings",
        BreakGlassError::Channel(ChannelError::Chain(AuditError::Open { source })) => return record_hint(source),
        BreakGlassError::Channel(ChannelError::Program { source })
        | BreakGlassError::Ledger(LedgerError::File { source })
        | BreakGlassError::Lock(LockError::File { source }) => return file_hint(source),
        BreakGlassError::Store(StoreError::IsOpen) => {
            "`oci-secrets break-glass status` shows which; `oci-secrets break-glass close` ends it"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Whether a file is one of a volume that Kubernetes projects: then its mode is not ours to change.
fn is_projected(path: &Path) -> bool {
    path.parent().is_some_and(|volume| volume.join("..data").is_symlink())
}

fn grant_hint(refusal: &Refusal) -> Option<String> {
    match refusal {
        Refusal::NoGrant { reference } => Some(format!(
            "a grant in the settings must list \"{}\" or \"op://{}/*\" under `references`",
            reference.as_str(),
            reference.vault()
        )),
        Refusal::Annotation { .. } => Some("the grant is for other containers; see its `to` in the settings".into()),
        Refusal::Owner { .. } => Some("drop the annotation, or add owner = \"allow\" to the grant".into()),
    }
}

fn source_hint(error: &SourceError) -> Option<String> {
    let hint = match error {
        SourceError::File { source } => return file_hint(source),
        SourceError::Op(error) => return op_hint(error),
        SourceError::NoSource => {
            "add [connect] with `url` and `token-file`, or [op]; `oci-secrets` also takes OP_CONNECT_HOST and OP_CONNECT_TOKEN"
        }
        SourceError::NotChosen => "add source = \"connect\" or source = \"op\" to the settings, above the first table",
        SourceError::NoConnect => "add [connect] with `url` and `token-file`",
        SourceError::Token { source } => return token_hint(source),
        SourceError::NoVault { .. } => {
            "names are case-sensitive; `oci-secrets check` shows which vaults the token can see"
        }
        SourceError::NoItem { .. } | SourceError::NoSection { .. } | SourceError::NoField { .. } => {
            "names are case-sensitive, and ids work in their place"
        }
        SourceError::ArchivedItem { .. } => "restore the item in 1Password, or ask for another",
        SourceError::ManyVaults { .. } | SourceError::ManyItems { .. } | SourceError::ManyFields { .. } => {
            "use the id in the place of the name: 1Password shows it under \"Copy UUID\""
        }
        SourceError::NoValue { .. } => "store a sealed value in the field: `oci-secrets seal` makes one",
        SourceError::Unauthorized { origin, .. } => return Some(unauthorized_hint(origin)),
        SourceError::Forbidden { origin, .. } => return Some(forbidden_hint(origin)),
        SourceError::NoAnswer { .. } | SourceError::Unreachable { .. } => {
            "`url` under [connect] in the settings names the server; `curl URL/heartbeat` tests the way there"
        }
        SourceError::Redirected { .. } => "set `url` under [connect] in the settings to where Connect itself answers",
        SourceError::NotConnect { .. } => "`url` under [connect] in the settings may lead to something else",
        _ => return None,
    };
    Some(hint.to_owned())
}

fn op_hint(error: &OpError) -> Option<String> {
    let hint = match error {
        OpError::File { source: FileError::Open { .. } } => {
            "`program` and `service-account-token-file` under [op] in the settings name files of this host"
        }
        OpError::File { source } => return file_hint(source),
        OpError::Outdated(error) => {
            return Some(outdated_hint(error, "`op service-account create` makes an account with one"));
        }
        OpError::UnusableToken => "store the line that `op service-account create` prints",
        OpError::NoPerson => "name a `service-account-token-file` under [op] in the settings, or use [connect]",
        OpError::NoAnswer { app: true, .. } | OpError::NotLetIn { .. } => {
            "unlock the 1Password app and let the command line in when it asks; `timeout` under [op] in the settings gives more time"
        }
        OpError::NotSignedIn { .. } => {
            "start the 1Password app, and turn on \"Integrate with 1Password CLI\" in its settings; `op account list` tests it"
        }
        OpError::Unauthorized { .. } => {
            "put a valid token into the service-account-token-file, of an account that reads the vault"
        }
        OpError::Many => "use ids in the place of names: 1Password shows them under \"Copy UUID\"",
        OpError::Limited { .. } => {
            "references by the ids of vault and item cost a third of the requests; 1Password Connect has no such limit"
        }
        OpError::Shape => "`op --version` must be 2.32.1 or newer: older ones can end well when 1Password failed",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// What to change where the token comes from, so that the server takes it.
fn unauthorized_hint(origin: &Origin) -> String {
    match origin {
        Origin::Static(_) => "put a valid token into the token-file: `op connect token create` makes one".into(),
        Origin::Environment(name) => format!("put a valid token into {name}: `op connect token create` makes one"),
        Origin::File(path) => format!(
            "issuer and audience of the token in {} must be among those that the server takes, and clocks be right",
            path.display()
        ),
        Origin::Github => {
            "`audience` of github-oidc in the settings must be the one that the gateway expects for GitHub's tokens"
                .into()
        }
        Origin::Gitlab(name) => {
            format!(
                "`id_tokens: {name}: aud:` of the job in .gitlab-ci.yml must be the audience that the gateway expects"
            )
        }
        Origin::Command(program) => {
            format!(
                "issuer and audience of what {} prints must be among those that the server takes",
                program.display()
            )
        }
    }
}

/// What to change so that the token is one that may.
fn forbidden_hint(origin: &Origin) -> String {
    match origin {
        Origin::Static(_) | Origin::Environment(_) => "give the token access to the vault: `op connect token create --vault`",
        Origin::Github => {
            "no rule of the gateway is for this repository, ref, workflow and `environment:` of the job; pull requests have a ref of their own"
        }
        Origin::Gitlab(_) => {
            "no rule of the gateway is for this project, ref and `environment:` of the job; merge requests have a ref of their own"
        }
        Origin::File(_) | Origin::Command(_) => "no rule of the gateway is for what the token claims",
    }
    .to_owned()
}

fn token_hint(error: &TokenError) -> Option<String> {
    let hint = match error {
        TokenError::File { source } | TokenError::Program { source } => return file_hint(source),
        TokenError::NoGithubVariable { .. } => {
            "add `permissions: { id-token: write }` to the job in the workflow file; pull requests from forks cannot have it"
        }
        TokenError::GithubRefused { .. } => "a job may ask for tokens until it ends, and only with `id-token: write`",
        TokenError::NoGitlabVariable { name } => {
            return Some(format!(
                "add `id_tokens: {{ {name}: {{ aud: \"URL OF THE GATEWAY\" }} }}` to the job in .gitlab-ci.yml"
            ));
        }
        TokenError::Expired { origin, .. } => return Some(expired_hint(origin)),
        TokenError::Outdated(error) => return Some(outdated_hint(error, "`op connect token create` makes one")),
        TokenError::Failed { .. } | TokenError::TooMuch { .. } => {
            "run it by hand: it must print the token and nothing else, and has no variable but PATH and HOME"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn outdated_hint(error: &OutdatedError, new: &str) -> String {
    match error {
        OutdatedError::TooOld { origin, .. } => format!("put a new token into {origin}: {new}"),
        OutdatedError::ToCome { .. } => "the clock of this host, or of who wrote the file, is wrong".into(),
        OutdatedError::Unknown { .. } => {
            "put it into a file, whose time tells: `token-file` under [connect] or `service-account-token-file` under [op]"
                .into()
        }
    }
}

fn expired_hint(origin: &Origin) -> String {
    match origin {
        Origin::Static(_) => "put a new token into the token-file: `op connect token create` makes one".into(),
        Origin::Environment(name) => format!("put a new token into {name}: `op connect token create` makes one"),
        Origin::File(path) => format!("what writes {} must write a new one in time", path.display()),
        Origin::Github => "this host's clock may be wrong".into(),
        Origin::Gitlab(_) => {
            "it lasts as long as `timeout:` of the job in .gitlab-ci.yml, else 5 minutes: set it, or resolve earlier"
                .into()
        }
        Origin::Command(program) => format!("{} must print a new one", program.display()),
    }
}

fn seal_hint(error: &SealError, reference: &Reference) -> Option<String> {
    let reference = reference.as_str();
    match error {
        SealError::Plaintext => {
            Some(format!("seal it for this reference: oci-secrets seal --kek URI --for \"{reference}\""))
        }
        SealError::Version { .. } => Some("a newer oci-secrets may have sealed it".into()),
        SealError::Form
        | SealError::Base64
        | SealError::Envelope { source: EnvelopeError::Truncated | EnvelopeError::WrappedLength } => {
            Some("store the whole line that `oci-secrets seal` prints".into())
        }
        SealError::Envelope { source: EnvelopeError::Authentication } => Some(format!(
            "a value opens only by the reference it was sealed for, in the same spelling: here \"{reference}\""
        )),
        SealError::Kek { source } => kek_hint(source),
        SealError::KekUri { .. } | SealError::NotTheSame | SealError::Envelope { .. } => None,
    }
}

fn kek_hint(error: &KekError) -> Option<String> {
    match error {
        KekError::NotListed { kek } => Some(format!("add \"{kek}\" to `keks` in the settings, if it is yours")),
        KekError::EnvelopesOnly => None,
        KekError::MadeElsewhere => Some("`oci-secrets kek new --help` tells which are made here".into()),
        KekError::OfKind(error) => error.error().hint().or_else(|| match error.error().fault() {
            Fault::File(error) => file_hint(error),
            Fault::Token(error) => token_hint(error),
            _ => None,
        }),
    }
}

fn process_hint(error: &ProcessError) -> Option<String> {
    let hint = match error {
        ProcessError::OwnMountNamespace => "give the spec a namespace of type \"mount\"",
        ProcessError::UnmappedUid { .. } | ProcessError::UnmappedGid { .. } => {
            "map the id in the container's user namespace, or run its process as one that is mapped"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn carry_hint(error: &CarryError) -> Option<String> {
    let hint = match error {
        CarryError::Site(SiteError::Process(error)) => return process_hint(error),
        CarryError::Site(SiteError::Target(TargetError::ReadOnly { .. })) => {
            "make /run/secrets in the image, or mount a tmpfs at /run"
        }
        CarryError::Site(SiteError::Target(
            TargetError::Dangling { .. } | TargetError::NotADirectory { .. } | TargetError::Loop { .. },
        )) => "/run/secrets must be a directory in the image, or missing",
        CarryError::Site(SiteError::NotMounted { .. }) => {
            "the hook is for runtimes that share the host's kernel and call it before the container enters its root filesystem: runc, crun, youki from 0.6"
        }
        CarryError::Shared { .. } => "leave rootfsPropagation out of the spec, or make it private or slave",
        CarryError::Special { .. } | CarryError::TooMany => {
            "leave the mount out, or give it another place than /run/secrets"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

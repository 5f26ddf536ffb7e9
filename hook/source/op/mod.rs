//! The 1Password CLI, `op`.
//!
//! All references are asked for by one run of `op inject`, as each run costs about a second and a share of an hourly limit. It is
//! run with the few variables that it needs and none of ours, and its output is accepted only in the exact form that was requested
//! for: versions before 2.32.1 can end as if all was well when 1Password's server failed.
//!
//! `op` names neither the item nor its version, and finds names whatever their case. That does no harm: grants match the reference
//! as it is asked for, and a sealed value opens for that spelling alone.
//!
//! [The CLI's reference](https://developer.1password.com/docs/cli/reference) is the source of commands and variables.

mod error;
mod missing;
pub mod refusal;
pub mod template;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{LocalBoxStream, iter, unfold};
use jiff::Timestamp;
use rustix::fs::statfs;
use tempfile::TempDir;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Fetched, Field, Source, SourceError};
use crate::child::{self, Ended};
use crate::reference::{Reference, is_id};
use crate::retry::Deadline;
use crate::run_directory::TMPFS_MAGIC;
use crate::settings::{self, OpUnlock, file};
use crate::token::Origin;
use crate::token::static_token::{Shown, outward_address, token_age};
use refusal::OpRefusal;
use template::InjectTemplate;

pub use error::OpError;

/// The first version that does not end as if all was well when 1Password's server failed.
pub const VERSION_MIN: [u32; 3] = [2, 32, 1];

/// The most that is read of what `op` prints.
const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;

const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// The requests that `op` sends to read an item of which it knows a name only.
const READ_BY_NAME: u64 = 3;

/// Where `op` has its home while it is run for a service account: in memory, whatever it may write there.
const MEMORY: &str = "/dev/shm";

/// The 1Password CLI, and who lets it in.
pub struct Op {
    program: PathBuf,
    unlock: Unlock,
    timeout: Duration,
    /// An estimate of the requests that its runs have cost.
    sent: Arc<AtomicU64>,
}

enum Unlock {
    App { account: Option<String>, session: Session },
    ServiceAccount { token: Zeroizing<String>, shown: Shown, max_age: Option<Duration> },
}

/// The desktop session of the person who calls: the variables by which `op` finds the app and its own configuration.
pub struct Session(Vec<(&'static str, OsString)>);

impl Session {
    /// Their home, and where the app's socket is.
    const VARIABLES: [&str; 3] = ["HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"];

    /// Takes what is needed of an environment.
    pub fn of(variable: impl Fn(&str) -> Option<OsString>) -> Session {
        Session(Session::VARIABLES.iter().filter_map(|name| Some((*name, variable(name)?))).collect())
    }
}

impl Op {
    /// Reads the token of the service account, if the settings name one. Nothing is run yet.
    ///
    /// # Errors
    /// If the program or the token file cannot be trusted, or there is neither a token nor a session with an app.
    pub fn open(settings: &settings::Op, session: Option<Session>) -> Result<Op, OpError> {
        let unlock = match (&settings.unlock, session) {
            (OpUnlock::ServiceAccount { token_file }, _) => {
                let (bytes, written) = file::read_dated(token_file, file::Kind::Credential, TOKEN_BYTES_MAX)?;
                let origin = Origin::Static(token_file.to_path_buf());
                // It does not say itself when it was made.
                let made = written.and_then(|written| Timestamp::try_from(written).ok());
                let token = token(&bytes)?;
                token_age::check(made, token_file.max_age, &origin)?;
                let shown = Shown { origin, made, address: None };
                Unlock::ServiceAccount { token, shown, max_age: token_file.max_age }
            }
            (OpUnlock::App { account }, Some(session)) => Unlock::App { account: account.clone(), session },
            (OpUnlock::App { .. }, None) => return Err(OpError::NoPerson),
        };
        Op::new(settings, unlock)
    }

    /// Shows `op` this token of a service account, whatever the settings say of who lets it in.
    ///
    /// # Errors
    /// If the program cannot be trusted, or the text is no token.
    pub fn with_token(settings: &settings::Op, text: &[u8], origin: Origin) -> Result<Op, OpError> {
        let shown = Shown { origin, made: None, address: None };
        Op::new(settings, Unlock::ServiceAccount { token: token(text)?, shown, max_age: None })
    }

    fn new(settings: &settings::Op, unlock: Unlock) -> Result<Op, OpError> {
        file::require_program(&settings.program)?;
        Ok(Op { program: settings.program.to_path_buf(), unlock, timeout: settings.timeout, sent: Arc::default() })
    }

    /// Continues the count of requests of another one.
    #[must_use]
    pub fn after(self, before: &Op) -> Op {
        Op { sent: before.sent.clone(), ..self }
    }

    /// How many requests its runs have cost, as far as 1Password documents it: by name, reading an item is three of them.
    pub fn requests_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// What `op` says of its version.
    ///
    /// # Errors
    /// If it cannot be run, does not answer in time, or says no version.
    pub async fn version(&self, deadline: Deadline) -> Result<String, OpError> {
        let answer = self.run(&["--version"], b"", deadline).await?;
        let text = str::from_utf8(&answer.output).unwrap_or_default().trim_ascii();
        let is_version =
            text.len() < 32 && text.split('.').count() > 2 && text.starts_with(|c: char| c.is_ascii_digit());
        if is_version { Ok(text.to_owned()) } else { Err(OpError::Shape) }
    }

    /// Asks for a group of references at once. If one of them leads nowhere there is no answer for any, and the others are asked for
    /// again. After the second such run, `op` lists what there is.
    async fn ask(&self, references: &[&Reference], group: Group, deadline: Deadline) -> Step {
        let wanted: Vec<(usize, &Reference)> =
            group.indexes.iter().filter_map(|at| Some((*at, *references.get(*at)?))).collect();
        let refusal = match self.inject(&wanted, deadline).await {
            Ok(values) => {
                let fields = wanted.iter().zip(values);
                let fetched =
                    fields.map(|((index, asked), value)| Fetched { index: *index, outcome: field(value, asked) });
                return Step { fetched: fetched.collect(), left: Vec::new() };
            }
            Err(refusal) => refusal,
        };
        let refused =
            |(index, asked): &(usize, &Reference)| Fetched { index: *index, outcome: Err(refusal.error(asked)) };
        let missing = match &refusal {
            OpRefusal::OfOne(missing) if wanted.len() > 1 => missing,
            _ => return Step { fetched: wanted.iter().map(refused).collect(), left: Vec::new() },
        };
        if group.failures == 1
            && let Some(found) = self.find_missing(&wanted, deadline).await
            && !found.is_empty()
        {
            let is_there = |index: &usize| found.iter().all(|(missing, _)| missing != index);
            let indexes: Vec<usize> = group.indexes.into_iter().filter(is_there).collect();
            let left = Group { indexes, failures: 2 };
            let fetched = found.into_iter().map(|(index, error)| Fetched { index, outcome: Err(error) }).collect();
            return Step { fetched, left: Some(left).filter(|left| !left.indexes.is_empty()).into_iter().collect() };
        }
        let (named, others): (Vec<_>, Vec<_>) = wanted.iter().partition(|(_, asked)| missing.names(asked));
        let indexes = |of: &[(usize, &Reference)]| Group {
            indexes: of.iter().map(|(index, _)| *index).collect(),
            failures: group.failures + 1,
        };
        let is_one_item = named.windows(2).all(|pair| match pair {
            [(_, one), (_, other)] => one.vault() == other.vault() && one.item() == other.item(),
            _ => true,
        });
        match named.as_slice() {
            [one] => Step { fetched: vec![refused(one)], left: vec![indexes(&others)] },
            [_, ..] if missing.is_of_item() && is_one_item => {
                let others = Some(indexes(&others)).filter(|others| !others.indexes.is_empty());
                Step { fetched: named.iter().map(refused).collect(), left: others.into_iter().collect() }
            }
            // It does not say which one it means.
            [] => {
                let (first, second) = others.split_at(others.len() / 2);
                Step { fetched: Vec::new(), left: vec![indexes(second), indexes(first)] }
            }
            // It can mean any of these.
            several => {
                let alone = several.iter().map(|one| indexes(std::slice::from_ref(one)));
                let others = Some(indexes(&others)).filter(|others| !others.indexes.is_empty());
                Step { fetched: Vec::new(), left: others.into_iter().chain(alone).collect() }
            }
        }
    }

    async fn inject(
        &self,
        wanted: &[(usize, &Reference)],
        deadline: Deadline,
    ) -> Result<Vec<Zeroizing<Vec<u8>>>, OpRefusal> {
        let template = InjectTemplate::of(wanted.iter().map(|(_, reference)| *reference)).ok_or(OpError::NoRandom)?;
        self.sent.fetch_add(cost(wanted), Ordering::Relaxed);
        let answer = self.run(&["inject"], template.text().as_bytes(), deadline).await?;
        match template.values(&answer.output) {
            Some(values) if answer.status.success() => Ok(values),
            _ => Err(OpRefusal::read(&answer)),
        }
    }

    async fn run(&self, arguments: &[&str], input: &[u8], deadline: Deadline) -> Result<Ended, OpError> {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("OP_CACHE", "false").current_dir("/");
        // Gone with what `op` wrote there when it has ended.
        let home;
        match &self.unlock {
            Unlock::App { account, session } => {
                command
                    .envs(session.0.iter().map(|(name, value)| (name, value)))
                    .env("OP_BIOMETRIC_UNLOCK_ENABLED", "true");
                command.args(account.iter().map(|account| format!("--account={account}")));
            }
            Unlock::ServiceAccount { token, shown, max_age } => {
                // A long-lived process may have read a token that was young enough then.
                token_age::check(shown.made, *max_age, &shown.origin)?;
                home = home_in_memory(Path::new(MEMORY))?;
                command.env("HOME", home.path()).env("OP_CONFIG_DIR", home.path());
                command.env("OP_BIOMETRIC_UNLOCK_ENABLED", "false").env("OP_SERVICE_ACCOUNT_TOKEN", &**token);
            }
        }
        let (within, reported) = match deadline.remaining() {
            left if left < self.timeout => (left, deadline.total()),
            _ => (self.timeout, self.timeout),
        };
        let answer = timeout(within, child::run(&mut command, input, OUTPUT_BYTES_MAX)).await;
        let app = matches!(self.unlock, Unlock::App { .. });
        match answer {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(OpError::TooLarge { limit: OUTPUT_BYTES_MAX }),
            Ok(Err(error)) => Err(OpError::Run { path: self.program.clone(), errno: error.into() }),
            Err(_elapsed) => Err(OpError::NoAnswer { within: reported, app }),
        }
    }
}

impl Source for Op {
    fn static_token(&self) -> Option<Shown> {
        match &self.unlock {
            // `op` makes its own connections, which are not visible here.
            Unlock::ServiceAccount { shown, .. } => Some(Shown { address: outward_address(), ..shown.clone() }),
            Unlock::App { .. } => None,
        }
    }

    fn fetch<'a>(&'a self, references: &'a [&'a Reference], deadline: Deadline) -> LocalBoxStream<'a, Fetched> {
        let all = Group { indexes: (0..references.len()).collect(), failures: 0 };
        let groups = [all].into_iter().filter(|group| !group.indexes.is_empty()).collect();
        let steps = unfold(groups, move |mut groups: Vec<Group>| async move {
            let Step { fetched, left } = self.ask(references, groups.pop()?, deadline).await;
            groups.extend(left);
            Some((fetched, groups))
        });
        steps.flat_map(iter).boxed_local()
    }
}

/// The requests that 1Password counts for a run.
fn cost(wanted: &[(usize, &Reference)]) -> u64 {
    let items: BTreeSet<(&str, &str)> = wanted.iter().map(|(_, asked)| (asked.vault(), asked.item())).collect();
    items.iter().map(|(vault, item)| if is_id(vault) && is_id(item) { 1 } else { READ_BY_NAME }).sum()
}

/// References that are asked for by one run.
struct Group {
    /// By index.
    indexes: Vec<usize>,
    /// How many runs have failed because one of them led nowhere.
    failures: u32,
}

/// What one run returned, and which groups are still to be asked for; the last one next.
struct Step {
    fetched: Vec<Fetched>,
    left: Vec<Group>,
}

fn field(value: Zeroizing<Vec<u8>>, reference: &Reference) -> Result<Field, SourceError> {
    let (field, item) = (reference.field().to_owned(), reference.item().to_owned());
    match str::from_utf8(&value) {
        Ok("") => Err(SourceError::NoValue { field, item }),
        Ok(text) => Ok(Field {
            value: Zeroizing::new(text.to_owned()),
            item_id: None,
            field_id: None,
            version: None,
            earlier: None,
        }),
        Err(_) => Err(SourceError::NotText { file: field, item }),
    }
}

/// A token, as `op service-account create` prints it; space around it is passed over.
fn token(bytes: &[u8]) -> Result<Zeroizing<String>, OpError> {
    let text = str::from_utf8(bytes.trim_ascii()).map_err(|_| OpError::UnusableToken)?;
    let is_token = text.starts_with("ops_") && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token { Ok(Zeroizing::new(text.to_owned())) } else { Err(OpError::UnusableToken) }
}

/// A new directory of ours alone, on a tmpfs.
fn home_in_memory(memory: &Path) -> Result<TempDir, OpError> {
    let no_home = |errno| OpError::NoHome { directory: memory.into(), errno };
    let of_what = statfs(memory).map_err(|errno| no_home(errno.into()))?.f_type;
    if of_what != TMPFS_MAGIC {
        return Err(OpError::OnDisk { directory: memory.into() });
    }
    let ours_alone = Permissions::from_mode(0o700);
    tempfile::Builder::new()
        .prefix("oci-secrets-op-")
        .permissions(ours_alone)
        .tempdir_in(memory)
        .map_err(|error| no_home(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_that_begins_as_service_accounts_do() {
        assert_eq!(&**token(b" ops_eyJhIjoiYiJ9\n").unwrap(), "ops_eyJhIjoiYiJ9");
        for text in [&b"eyJhIjoiYiJ9"[..], b"", b"ops_a\nops_b", b"ops_\xff", b"ops_a b"] {
            assert!(matches!(token(text), Err(OpError::UnusableToken)));
        }
    }

    #[test]
    fn has_its_home_in_memory_for_us_alone_or_nowhere() {
        let home = home_in_memory(Path::new(MEMORY)).unwrap();
        assert_eq!(home.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(home_in_memory(Path::new("/proc")), Err(OpError::OnDisk { .. })));
        assert!(matches!(home_in_memory(Path::new("/nowhere")), Err(OpError::NoHome { .. })));
    }

    #[test]
    fn never_asks_an_app_without_a_person() {
        let settings = settings::Op::default();
        assert!(matches!(Op::open(&settings, None), Err(OpError::NoPerson)));
    }
}

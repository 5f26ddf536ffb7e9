//! `pkcs11:token=…;object=…`: a key in an HSM, through the PKCS#11 module of its vendor.
//!
//! The module is loaded by `oci-secrets-pkcs11` ([`crate::pkcs11`]), a process that is started when a value first needs it, is asked
//! for everything at once through pipes, and is killed when the start is over or it does not answer. Its environment is what the
//! settings say, and nothing else.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{Mutex, oneshot};
use zeroize::Zeroizing;

use super::{Abilities, Kek, KekError, KekFuture, KekKind, Unwrapped, Version};
use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::pkcs11::{GREETING, Job, KeyUri, Pkcs11Error, Reply, Request, TokenAnswer};
use crate::retry::{Deadline, Failure, GaveUp, Seconds};
use crate::seal::envelope::DataKey;
use crate::settings::Settings;
use crate::settings::file::{self, FileError};

/// HSMs.
pub const KIND: KekKind = KekKind {
    scheme: "pkcs11:",
    form: "pkcs11:token=<label>;object=<label>, of RFC 7512's attributes token, manufacturer, model, serial, object and id, where other characters than letters, digits and -._~ are %-encoded",
    to_unwrap: "use a key that may decrypt, or unwrap",
    for_trials: false,
    is_name: |name| KeyUri::parse(name).is_some(),
    open,
};

/// The HSMs that one module leads to.
struct Hsm<'a> {
    settings: &'a crate::settings::Pkcs11,
    helper: RefCell<Option<Rc<Helper>>>,
    /// How many requests there were.
    requests: Cell<u64>,
}

/// Nothing is started yet.
fn open(settings: &Settings) -> Result<Box<dyn Kek + '_>, KekError> {
    Ok(Box::new(Hsm { settings: &settings.pkcs11, helper: RefCell::default(), requests: Cell::default() }))
}

impl Hsm<'_> {
    async fn ask(&self, name: &str, job: Job, deadline: Deadline) -> Result<TokenAnswer, HsmError> {
        let key = format!("{}{name}", KIND.scheme);
        let id = self.requests.get();
        self.requests.set(id + 1);
        let request = Request { id, key: KeyUri::parse(name).ok_or(HsmError::Lost)?, job };
        let mut line = Zeroizing::new(serde_json::to_vec(&request).map_err(|_| HsmError::Lost)?);
        line.push(b'\n');
        let asked = deadline.retry(async || self.exchange(id, &line).await.map_err(Failure::Final)).await;
        match asked {
            Ok(TokenAnswer::Failed(error)) => Err(HsmError::Token { key, error }),
            Ok(answer) => Ok(answer),
            Err(GaveUp { last: Some(error), .. }) => Err(error),
            Err(GaveUp { within, .. }) => Err(HsmError::NoAnswer { key, within }),
        }
    }

    async fn exchange(&self, id: u64, line: &[u8]) -> Result<TokenAnswer, HsmError> {
        let helper = self.helper()?;
        let mut patience = Patience { place: &self.helper, helper: Rc::clone(&helper), is_over: true };
        let answer = helper.exchange(id, line).await?;
        patience.is_over = false;
        Ok(answer)
    }

    fn helper(&self) -> Result<Rc<Helper>, HsmError> {
        let mut place = self.helper.borrow_mut();
        match &*place {
            Some(helper) => Ok(Rc::clone(helper)),
            None => Ok(Rc::clone(place.insert(Rc::new(Helper::start(self.settings)?)))),
        }
    }
}

/// What a call has with its process: one that gave no answer is left, and ends when no call waits for it.
struct Patience<'a> {
    place: &'a RefCell<Option<Rc<Helper>>>,
    helper: Rc<Helper>,
    is_over: bool,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        self.place.borrow_mut().take_if(|helper| self.is_over && Rc::ptr_eq(helper, &self.helper));
    }
}

impl Kek for Hsm<'_> {
    fn wrap<'a>(&'a self, name: &'a str, data_key: &'a DataKey, deadline: Deadline) -> KekFuture<'a, Vec<u8>> {
        let wrap = async move {
            let job = Job::Wrap(Zeroizing::new(data_key.serialized().to_vec()));
            match self.ask(name, job, deadline).await? {
                TokenAnswer::Bytes(mut wrapped) => Ok(std::mem::take(&mut *wrapped)),
                _ => Err(HsmError::Lost.into()),
            }
        };
        wrap.boxed_local()
    }

    fn unwrap<'a>(&'a self, name: &'a str, wrapped: &'a [u8], deadline: Deadline) -> KekFuture<'a, Unwrapped> {
        let unwrap = async move {
            match self.ask(name, Job::Unwrap(Zeroizing::new(wrapped.to_vec())), deadline).await? {
                TokenAnswer::Bytes(mut serialized) => {
                    let data_key = DataKey::from_serialized(std::mem::take(&mut *serialized));
                    Ok(Unwrapped { data_key, version: Version::default() })
                }
                _ => Err(HsmError::Lost.into()),
            }
        };
        unwrap.boxed_local()
    }

    fn describe<'a>(&'a self, name: &'a str, deadline: Deadline) -> KekFuture<'a, Abilities> {
        let describe = async move {
            match self.ask(name, Job::Describe, deadline).await? {
                TokenAnswer::Uses { wrap, unwrap } => Ok(Abilities { wrap, unwrap }),
                _ => Err(HsmError::Lost.into()),
            }
        };
        describe.boxed_local()
    }

    fn create<'a>(&'a self, name: &'a str, deadline: Deadline) -> KekFuture<'a, ()> {
        async move { Ok(self.ask(name, Job::Create, deadline).await.map(drop)?) }.boxed_local()
    }
}

/// The process that has the module, for as long as this lives.
struct Helper {
    child: RefCell<Child>,
    module: PathBuf,
    requests: Mutex<Sender>,
    /// The waiting call that holds it reads for all of them.
    answers: Mutex<Answers>,
    /// Whether it has greeted: from then on, the module can end it.
    has_greeted: Cell<bool>,
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<TokenAnswer>>>,
}

/// Where answers come from, and what there is of the next one.
struct Answers {
    pipe: BufReader<Receiver>,
    line: Zeroizing<Vec<u8>>,
}

impl Helper {
    fn start(settings: &crate::settings::Pkcs11) -> Result<Helper, HsmError> {
        let module = settings.module.as_ref().ok_or(HsmError::NoModule)?;
        for path in [&settings.helper, module] {
            file::check(path, file::Kind::Plain).map_err(|source| HsmError::File { source })?;
        }
        let pin_file = settings.pin_file.as_deref();
        if let Some(path) = pin_file {
            file::check(path, file::Kind::Credential).map_err(|source| HsmError::File { source })?;
        }
        let not_started = |errno| HsmError::Start { path: settings.helper.to_path_buf(), errno };
        let mut child = Command::new(&*settings.helper)
            .arg(&**module)
            .args(pin_file)
            .env_clear()
            .envs(&settings.environment)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| not_started(error.into()))?;
        let pipes = (child.stdin.take().map(OwnedFd::from), child.stdout.take().map(OwnedFd::from));
        // Whatever fails from here on, the process is killed when this is dropped.
        let connected = match pipes {
            (Some(requests), Some(answers)) => {
                Sender::from_owned_fd(requests).and_then(|requests| Ok((requests, Receiver::from_owned_fd(answers)?)))
            }
            _ => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        match connected {
            Ok((requests, answers)) => Ok(Helper {
                child: RefCell::new(child),
                requests: Mutex::new(requests),
                answers: Mutex::new(Answers { pipe: BufReader::new(answers), line: Zeroizing::default() }),
                has_greeted: Cell::new(false),
                module: module.to_path_buf(),
                waiting: RefCell::default(),
            }),
            Err(error) => {
                end(&mut child);
                Err(not_started(error.into()))
            }
        }
    }

    async fn exchange(&self, id: u64, line: &[u8]) -> Result<TokenAnswer, HsmError> {
        let (sender, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, sender);
        if self.requests.lock().await.write_all(line).await.is_err() {
            // What it printed before it ended shows why.
            return Err(self.receive().await);
        }
        match select(answer, pin!(self.receive())).await {
            Either::Left((answer, _)) => answer.map_err(|_| HsmError::Lost),
            Either::Right((error, _)) => Err(error),
        }
    }

    /// Passes on the answers that come, until none can come any more. It can be dropped, and begun again by another.
    async fn receive(&self) -> HsmError {
        let mut answers = self.answers.lock().await;
        loop {
            let Answers { pipe, line } = &mut *answers;
            if !pipe.read_until(b'\n', line).await.is_ok_and(|_| line.ends_with(b"\n")) {
                return self.ended();
            }
            let line = std::mem::take(line);
            if !self.has_greeted.get() {
                if **line != *GREETING.as_bytes() {
                    return HsmError::Lost;
                }
                self.has_greeted.set(true);
                continue;
            }
            let Ok(Reply { id, answer }) = serde_json::from_slice(&line) else { return HsmError::Lost };
            if let Some(waiting) = self.waiting.borrow_mut().remove(&id) {
                let _ = waiting.send(answer);
            }
        }
    }

    /// Why it ended by itself, which it does only for a reason.
    fn ended(&self) -> HsmError {
        // It has closed its pipes, and so is about to be gone.
        match self.child.borrow_mut().wait().map(|status| (status.signal(), status.code())) {
            Ok((Some(signal), _)) => HsmError::Killed { signal },
            Ok((_, Some(code))) if self.has_greeted.get() => {
                HsmError::ModuleExited { module: self.module.clone(), code }
            }
            Ok((_, Some(code))) => HsmError::Exited { code },
            _ => HsmError::Lost,
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        end(self.child.get_mut());
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Why a key in an HSM cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum HsmError {
    /// The settings name no module.
    #[error("the settings have no `module` under [pkcs11]")]
    NoModule,
    /// The helper, the module or the PIN file cannot be trusted.
    #[error("cannot use the files of [pkcs11]")]
    File { source: FileError },
    /// The helper is no program that runs here.
    #[error("cannot start {}", path.display())]
    Start {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// The module ended its process.
    #[error("the PKCS#11 module ended its process by signal {signal}")]
    Killed { signal: i32 },
    /// A library that calls `exit` ends the process that loaded it.
    #[error("the PKCS#11 module {} ended its process with exit code {code}", module.display())]
    ModuleExited { module: PathBuf, code: i32 },
    /// The helper gave up before it loaded the module.
    #[error("oci-secrets-pkcs11 ended with exit code {code}")]
    Exited { code: i32 },
    /// The helper is not ours, or not of this version.
    #[error("oci-secrets-pkcs11 does not answer as this version does")]
    Lost,
    /// The token did not answer in time.
    #[error("{key} did not answer within {}", Seconds(*within))]
    NoAnswer { key: String, within: Duration },
    /// The module or the token refused.
    #[error("{key}")]
    Token {
        key: String,
        #[source]
        error: Pkcs11Error,
    },
}

const FILES_HINT: &str = "`helper`, `module` and `pin-file` under [pkcs11] in the settings name files of this host";

/// What can be done about a module that ends its process.
const MODULE_HINT: &str = "`pkcs11-tool --module MODULE --list-slots` tests it; the vendor's log may say why, and what it needs in its environment stands under [pkcs11] in the settings";

impl Fault for HsmError {
    fn class(&self) -> Class {
        match self {
            HsmError::File { source } => source.class(),
            HsmError::NoModule | HsmError::Start { .. } | HsmError::Exited { .. } | HsmError::Lost => Class::Settings,
            HsmError::NoAnswer { .. } | HsmError::Killed { .. } | HsmError::ModuleExited { .. } => Class::Unavailable,
            HsmError::Token { error, .. } => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            HsmError::NoModule => "name the vendor's library: `module` under [pkcs11] in the settings",
            HsmError::File { source } => return source.hint().or_else(|| Some(FILES_HINT.to_owned())),
            HsmError::Start { .. } => FILES_HINT,
            HsmError::Killed { .. } | HsmError::ModuleExited { .. } => MODULE_HINT,
            HsmError::Exited { .. } | HsmError::Lost => "install oci-secrets-pkcs11 of the hook's own version",
            HsmError::Token { error, .. } => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl From<HsmError> for KekError {
    fn from(error: HsmError) -> KekError {
        KekError::OfKind(error.into())
    }
}

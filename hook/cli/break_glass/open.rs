//! `oci-secrets break-glass open`: for a time, the hook may use what was kept.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{admit, describe, duration, identity, read};
use crate::break_glass::channel::{Channel, Event};
use crate::break_glass::ending::find;
use crate::break_glass::file::SealedFile;
use crate::break_glass::lock::Locked;
use crate::break_glass::store::{Account, Emergency, StoreError, new_id};
use crate::break_glass::{BreakGlassError, Kept, time};
use crate::cli::{PROGRAM, write_output};
use crate::excerpt::Excerpt;
use crate::fault::AnyFault;
use crate::reference::Reference;
use crate::report;
use crate::secret::Secret;
use crate::settings::Settings;

/// The longest that an emergency is open, in hours and in words.
const OPEN_HOURS_MAX: i64 = 7 * 24;
const OPEN_MAX: &str = "7d";

/// What is typed to confirm.
const CONFIRMATION: &str = "open";

const EXAMPLE: &str = "\
Example: for the night, with a key that is on a stick

  sudo oci-secrets break-glass open agents.sealed --identity /media/key/ada.txt --reason outage --for 8h";

/// Let containers start with the secrets of a sealed file, for a time.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(in crate::cli) struct Arguments {
    /// The sealed file. The usage shows it, and the help must fit a screen.
    #[arg(value_name = "FILE", hide = true)]
    file: PathBuf,
    /// The file of a private key, age's or SSH's; `-` is standard input; without it, it is asked for.
    #[arg(long, value_name = "KEYFILE")]
    identity: Vec<PathBuf>,
    /// Why.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    reason: String,
    /// For how long.
    #[arg(long = "for", value_name = "DURATION")]
    duration: String,
    /// Only these references of the file.
    #[arg(long, value_name = "REFERENCE", num_args = 1..)]
    only: Vec<Reference>,
    /// The ticket that it is about.
    #[arg(long, value_name = "ID")]
    ticket: Option<String>,
    /// Who opens it, as many as the file takes; by default, whoever called sudo.
    #[arg(long = "operator", value_name = "NAME")]
    operators: Vec<String>,
    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(arguments: &Arguments, settings: &Settings, settings_path: &Path) -> Result<ExitCode, AnyFault> {
    let duration = duration(&arguments.duration, OPEN_HOURS_MAX, OPEN_MAX)?;
    let emergency = open(arguments, duration, settings)?;
    let account = emergency.account();
    let text = format!(
        "emergency {} is open until {}, secrets: {}\n`oci-secrets break-glass close` ends it; `status` shows what is owed then\n",
        account.id,
        time(&account.until),
        account.secrets.len()
    );
    clear_away_in_time(settings_path);
    write_output(text.as_bytes())
}

fn open(arguments: &Arguments, duration: Duration, settings: &Settings) -> Result<Emergency, AnyFault> {
    let sealed = read(&arguments.file)?;
    admit(&sealed, &arguments.file)?;
    let operators = operators(arguments, &sealed)?;
    // What would stop it later is found before anybody is asked for a key.
    if find(settings)?.is_some() {
        return Err(BreakGlassError::from(StoreError::IsOpen).into());
    }
    let lock = Locked::take(&settings.break_glass.directory)?;
    Channel::open(settings, &lock)?;
    // Somebody who types must not hold up containers that start meanwhile.
    drop(lock);
    confirm(arguments, &sealed)?;
    let identities = identity::read(&arguments.identity, sealed.header.operators())?;
    let secrets = sealed.open(&identities).map_err(|source| {
        AnyFault::from(BreakGlassError::Sealed { file: arguments.file.display().to_string(), source })
    })?;
    drop(identities);
    let (kept, secrets) = chosen(arguments, &sealed, secrets)?;
    begin(arguments, operators, &sealed, kept, &secrets, duration, settings).map_err(AnyFault::from)
}

/// Records the act, and does it.
fn begin(
    arguments: &Arguments,
    operators: Vec<String>,
    sealed: &SealedFile,
    secrets: Vec<Kept>,
    plain: &[Secret],
    duration: Duration,
    settings: &Settings,
) -> Result<Emergency, BreakGlassError> {
    let opened = Timestamp::now();
    let until = opened.saturating_add(SignedDuration::try_from(duration).unwrap_or(SignedDuration::ZERO));
    let account = Account {
        id: new_id()?,
        opened,
        until: until.unwrap_or(opened),
        reason: arguments.reason.clone(),
        ticket: arguments.ticket.clone(),
        operators,
        file: sealed.digest().to_owned(),
        secrets,
    };
    let lock = Locked::take(&settings.break_glass.directory)?;
    if Emergency::at_place()?.is_some() {
        return Err(StoreError::IsOpen.into());
    }
    Channel::open(settings, &lock)?.record(Event::Open {
        emergency: &account.id,
        file: &account.file,
        reason: &account.reason,
        ticket: account.ticket.as_deref(),
        operators: &account.operators,
        until: account.until,
        secrets: &account.secrets,
    })?;
    report::warn(PROGRAM, &format!("break-glass: emergency {} is open: {}", account.id, Excerpt(&account.reason)));
    Ok(Emergency::open(&lock, account, duration, plain)?)
}

/// Who opens it, by distinct names.
fn operators(arguments: &Arguments, sealed: &SealedFile) -> Result<Vec<String>, BreakGlassError> {
    let mut names: BTreeSet<String> = arguments.operators.iter().filter(|name| !name.is_empty()).cloned().collect();
    if names.is_empty() {
        names.extend(["SUDO_USER", "USER"].iter().find_map(|variable| std::env::var(variable).ok()));
    }
    let expected = sealed.header.operators();
    if expected > 1 && names.len() < expected {
        let file = arguments.file.display().to_string();
        return Err(BreakGlassError::Operators { file, expected, found: names.len() });
    }
    Ok(names.into_iter().collect())
}

fn confirm(arguments: &Arguments, sealed: &SealedFile) -> Result<(), BreakGlassError> {
    if arguments.yes {
        return Ok(());
    }
    let text = format!(
        "{}reason   {}\nfor      {}\n\nEach secret that a container gets must be changed afterwards. Type \"{CONFIRMATION}\" to go on: ",
        describe(sealed),
        Excerpt(&arguments.reason),
        Excerpt(&arguments.duration),
    );
    match identity::ask(&text) {
        Some(answer) if answer == CONFIRMATION => Ok(()),
        _ => Err(BreakGlassError::NotConfirmed { file: arguments.file.display().to_string() }),
    }
}

/// The secrets that were asked for, or all.
fn chosen(
    arguments: &Arguments,
    sealed: &SealedFile,
    secrets: Vec<Secret>,
) -> Result<(Vec<Kept>, Vec<Secret>), BreakGlassError> {
    let kept = &sealed.header.secrets;
    let missing = |wanted: &&Reference| !kept.iter().any(|kept| kept.reference == wanted.as_str());
    if let Some(reference) = arguments.only.iter().find(missing) {
        let file = arguments.file.display().to_string();
        return Err(BreakGlassError::NotInFile { file, reference: reference.clone() });
    }
    let is_wanted = |kept: &Kept| {
        arguments.only.is_empty() || arguments.only.iter().any(|wanted| wanted.as_str() == kept.reference)
    };
    Ok(kept.iter().cloned().zip(secrets).filter(|(kept, _)| is_wanted(kept)).unzip())
}

/// Starts what clears the store away when the time is over. Nothing depends on it: the kernel forgets the key by itself.
fn clear_away_in_time(settings: &Path) {
    let program = std::env::current_exe();
    let settings = std::path::absolute(settings);
    let (Ok(program), Ok(settings)) = (program, settings) else { return };
    let mut command = Command::new(program);
    command.arg("--settings").arg(settings).args(["break-glass", "expire"]).env_clear().current_dir("/");
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if started.is_err() {
        report::note(PROGRAM, "nothing clears the store away in time; `break-glass status` does");
    }
}

//! `oci-secrets break-glass open`: lets the hook use the secrets of a sealed file for a limited time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::duration::duration;
use super::emergency::find;
use super::identity;
use super::sealed_file::{admit, describe, read};
use crate::break_glass::file::SealedFile;
use crate::break_glass::session::Session;
use crate::break_glass::store::{Account, Emergency, StoreError, new_id};
use crate::break_glass::{BreakGlassError, Kept, time};
use crate::cli::{PROGRAM, block_on, write_output};
use crate::excerpt::Excerpt;
use crate::fault::AnyFault;
use crate::reference::Reference;
use crate::report;
use crate::secret::Secret;
use crate::settings::Settings;

/// The longest duration of an emergency, in hours and as it is written.
const OPEN_HOURS_MAX: i64 = 7 * 24;
const OPEN_MAX: &str = "7d";

/// The confirmation to type.
const CONFIRMATION: &str = "open";

const EXAMPLE: &str = "\
Example: for the night, with a key on a USB stick

  sudo oci-secrets break-glass open agents.sealed --identity /media/key/ada.txt --reason outage --for 8h";

/// Open an emergency: containers may start with the secrets of a sealed file, for a limited time.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(in crate::cli) struct Arguments {
    /// The sealed file. The usage shows it, and the help must fit a screen.
    #[arg(value_name = "FILE", hide = true)]
    file: PathBuf,
    /// The file of an age or SSH private key; `-` is standard input; by default, the key is asked for.
    #[arg(long, value_name = "KEYFILE")]
    identity: Vec<PathBuf>,
    /// The reason, which is recorded.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    reason: String,
    /// The duration of the emergency.
    #[arg(long = "for", value_name = "DURATION")]
    duration: String,
    /// Only these references of the file.
    #[arg(long, value_name = "REFERENCE", num_args = 1..)]
    only: Vec<Reference>,
    /// The ticket.
    #[arg(long, value_name = "ID")]
    ticket: Option<String>,
    /// The operators, as many as the file requires; by default, the user who called sudo.
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
        "emergency {} is open until {}, secrets: {}\n`oci-secrets break-glass close` ends it; then `status` lists the secrets to rotate\n",
        account.id,
        time(&account.until),
        account.secrets.len()
    );
    spawn_remover(settings_path);
    write_output(text.as_bytes())
}

fn open(arguments: &Arguments, duration: Duration, settings: &Settings) -> Result<Emergency, AnyFault> {
    let sealed = read(&arguments.file)?;
    admit(&sealed, &arguments.file)?;
    let operators = operators(arguments, &sealed)?;
    // Fail before prompting for a key. The session ends here, so that containers can start during the prompt.
    if find(settings)?.is_some() {
        return Err(BreakGlassError::from(StoreError::IsOpen).into());
    }
    block_on(settings, async |_| {
        let mut session = Session::begin(settings).await?;
        Ok(session.open_channel().map(drop).map_err(BreakGlassError::from)?)
    })?;
    confirm(arguments, &sealed)?;
    let identities = identity::read(&arguments.identity, sealed.header.operators())?;
    let secrets = sealed.open(&identities).map_err(|source| {
        AnyFault::from(BreakGlassError::Sealed { file: arguments.file.display().to_string(), source })
    })?;
    drop(identities);
    let (kept, secrets) = chosen(arguments, &sealed, secrets)?;
    let account = account(arguments, operators, &sealed, kept, duration)?;
    let warning = format!("break-glass: emergency {} is open: {}", account.id, Excerpt(&account.reason));
    let opened = block_on(settings, async |_| {
        Ok(Session::begin(settings).await?.open_emergency(account, duration, &secrets).await?)
    })?;
    report::warn(PROGRAM, &warning);
    Ok(opened)
}

fn account(
    arguments: &Arguments,
    operators: Vec<String>,
    sealed: &SealedFile,
    secrets: Vec<Kept>,
    duration: Duration,
) -> Result<Account, BreakGlassError> {
    let opened = Timestamp::now();
    let until = opened.saturating_add(SignedDuration::try_from(duration).unwrap_or(SignedDuration::ZERO));
    Ok(Account {
        id: new_id()?,
        opened,
        until: until.unwrap_or(opened),
        reason: arguments.reason.clone(),
        ticket: arguments.ticket.clone(),
        operators,
        file: sealed.digest().to_owned(),
        secrets,
    })
}

/// The names of the operators, without duplicates.
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
        "{}reason   {}\nfor      {}\n\nEach secret that a container gets must be rotated afterwards. Type \"{CONFIRMATION}\" to continue: ",
        describe(sealed),
        Excerpt(&arguments.reason),
        Excerpt(&arguments.duration),
    );
    match identity::ask(&text) {
        Some(answer) if answer == CONFIRMATION => Ok(()),
        _ => Err(BreakGlassError::NotConfirmed { file: arguments.file.display().to_string() }),
    }
}

/// The secrets that `--only` names, or all.
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

/// Starts the process that removes the store at the end. Security does not depend on it: the key expires in the kernel.
fn spawn_remover(settings: &Path) {
    let program = std::env::current_exe();
    let settings = std::path::absolute(settings);
    let (Ok(program), Ok(settings)) = (program, settings) else { return };
    let mut command = Command::new(program);
    command.arg("--settings").arg(settings).args(["break-glass", "expire"]).env_clear().current_dir("/");
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if started.is_err() {
        report::note(
            PROGRAM,
            "cannot start the process that removes the store at the end; `break-glass status` removes it",
        );
    }
}

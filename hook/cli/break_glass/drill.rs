//! `oci-secrets break-glass drill`: tests a sealed file.

use std::path::PathBuf;
use std::process::ExitCode;

use anstyle::AnsiColor;
use jiff::Timestamp;

use super::duration::duration;
use super::identity;
use super::sealed_file::{admit, read};
use crate::break_glass::channel::Event;
use crate::break_glass::file::SealedFile;
use crate::break_glass::session::Session;
use crate::break_glass::{BreakGlassError, Kept};
use crate::cli::table::Table;
use crate::cli::{block_on, write_table};
use crate::fault::{AnyFault, Class, Fault as _};
use crate::reference::Reference;
use crate::report;
use crate::settings::Settings;
use crate::source::connect::Connect;
use crate::source::{Fetched, Source as _, SourceError};
use futures_util::StreamExt as _;

const AGE_HOURS_MAX: i64 = 366 * 24;
const AGE_MAX: &str = "366d";

const EXAMPLE: &str = "\
Example: once a month, with the key of an operator

  sudo oci-secrets break-glass drill agents.sealed --identity ada.txt --max-age 35d";

/// Test that a sealed file opens and is up to date, deliver nothing, and record the drill.
///
/// The file is opened as by `open`, in the memory of this process only. The versions of the items are compared with those in
/// 1Password.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(in crate::cli) struct Arguments {
    /// The sealed file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The file of a private key, as for `open`.
    #[arg(long, value_name = "KEYFILE")]
    identity: Vec<PathBuf>,
    /// The greatest age of the file.
    #[arg(long, value_name = "DURATION", default_value = "90d")]
    max_age: String,
}

/// The state of one secret in 1Password, compared with the file.
enum Live {
    Same,
    Newer(u64),
    Gone(SourceError),
}

pub(super) fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode, AnyFault> {
    let max_age = duration(&arguments.max_age, AGE_HOURS_MAX, AGE_MAX)?;
    let file = read(&arguments.file)?;
    let mut table = Table::default();
    let (stale, outcome) = match rehearse(arguments, &file, settings, &mut table) {
        Ok(stale) => (stale, judge(arguments, &file, stale, max_age).map_err(AnyFault::from)),
        Err(error) => (0, Err(error)),
    };
    let failure = outcome.as_ref().err().map(|error| report::chain(error));
    let (digest, secrets) = (file.digest(), file.header.secrets.len());
    let drill = Event::Drill { file: digest, secrets, stale, failure };
    block_on(settings, async |_| {
        let recorded = Session::begin(settings).await?.record(drill).await;
        Ok(recorded.map_err(BreakGlassError::from)?)
    })?;
    if outcome.is_ok() {
        table.line("the file opens, and matches 1Password");
    }
    write_table(&table)?;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Opens the file, drops the secrets, and returns how many have another version in 1Password.
fn rehearse(
    arguments: &Arguments,
    file: &SealedFile,
    settings: &Settings,
    table: &mut Table,
) -> Result<usize, AnyFault> {
    admit(file, &arguments.file)?;
    let identities = identity::read(&arguments.identity, file.header.operators())?;
    let opened = file.open(&identities).map_err(|source| {
        AnyFault::from(BreakGlassError::Sealed { file: arguments.file.display().to_string(), source })
    })?;
    drop(opened);
    table.verdict("opens", AnsiColor::Green, arguments.file.display());
    let live = live(&file.header.secrets, settings)?;
    for (kept, live) in file.header.secrets.iter().zip(&live) {
        let (verdict, colour, detail) = match live {
            Live::Same => ("same", AnsiColor::Green, format!("version {}", kept.version)),
            Live::Newer(version) => {
                let detail = format!("version {} in the file, {version} in 1Password", kept.version);
                ("changed", AnsiColor::Red, detail)
            }
            Live::Gone(error) => ("gone", AnsiColor::Red, report::chain(error)),
        };
        table.verdict(verdict, colour, format_args!("{}: {detail}", kept.reference));
    }
    Ok(live.iter().filter(|live| !matches!(live, Live::Same)).count())
}

/// The states in 1Password, in the order of the secrets.
fn live(secrets: &[Kept], settings: &Settings) -> Result<Vec<Live>, AnyFault> {
    let connect = Connect::of(settings)?;
    let references: Vec<Reference> = secrets.iter().filter_map(|kept| kept.reference.parse().ok()).collect();
    let references: Vec<&Reference> = references.iter().collect();
    block_on(settings, async |deadline| {
        let fetched: Vec<Fetched> = connect.fetch(&references, deadline).collect().await;
        let mut live = Vec::with_capacity(fetched.len());
        for Fetched { index, outcome } in fetched {
            let Some(kept) = secrets.get(index) else { continue };
            let seen = match outcome {
                Ok(field) if field.item_id.as_ref() == Some(&kept.item) && field.version == Some(kept.version) => {
                    Live::Same
                }
                Ok(field) => Live::Newer(field.version.unwrap_or_default()),
                Err(error) if error.class() == Class::NotFound => Live::Gone(error),
                Err(error) => return Err(error.into()),
            };
            live.push((index, seen));
        }
        live.sort_by_key(|(index, _)| *index);
        Ok(live.into_iter().map(|(_, live)| live).collect())
    })
}

fn judge(
    arguments: &Arguments,
    file: &SealedFile,
    stale: usize,
    max_age: std::time::Duration,
) -> Result<(), BreakGlassError> {
    let name = || arguments.file.display().to_string();
    if stale > 0 {
        return Err(BreakGlassError::Stale { file: name(), stale, secrets: file.header.secrets.len() });
    }
    let seconds = Timestamp::now().as_second() - file.header.created.as_second();
    if u64::try_from(seconds).is_ok_and(|seconds| seconds > max_age.as_secs()) {
        let (day, max) = (24 * 60 * 60, i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX));
        return Err(BreakGlassError::Old { file: name(), days: seconds / day, max: max / day });
    }
    Ok(())
}

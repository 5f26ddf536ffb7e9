//! `oci-secrets rewrap`: sealed values go over to another KEK, or to the newest version of theirs.
//!
//! No secret is shown, and none is lost: a new value is opened before it takes the place of the old one, each is stored by one
//! request, and 1Password keeps the old one. After an interruption, run it again: values that were moved are recognised.

use std::process::ExitCode;

use anstyle::AnsiColor;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::error::CliError;
use super::table::Table;
use super::{block_on, read_input, write_json, write_output, write_table};
use crate::fault::AnyFault;
use crate::reference::Reference;
use crate::report;
use crate::retry::Deadline;
use crate::seal::kek::{KekUri, Keks};
use crate::seal::{Rewrapped, SealError, SealedValue, is_sealed};
use crate::settings::Settings;
use crate::source::SourceError;
use crate::source::connect::Connect;
use crate::source::connect::edit::StoredField;

/// Move sealed values to another key-encryption key, or to the newest version of theirs.
///
/// One value from standard input to standard output, or with `--vault` every sealed field of a vault, through 1Password Connect. Our
/// identity must be able to unwrap with the old key, and to wrap and unwrap with the new one.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// The key to move to; the values' own to move to its newest version.
    #[arg(long, value_name = "URI")]
    to: KekUri,
    /// Move only values under this key.
    #[arg(long, value_name = "URI")]
    from: Option<KekUri>,
    /// The field that the value on standard input was sealed for.
    #[arg(long = "for", value_name = "REFERENCE", required_unless_present = "vault", conflicts_with = "vault")]
    reference: Option<Reference>,
    /// Every sealed field of this vault, in place of standard input.
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    /// Store the moved values; without it, print what would be moved.
    #[arg(long, requires = "vault", conflicts_with = "reference")]
    write: bool,
    /// Print JSON: a list of objects with `field`, `status` (moved, to move, current, other, failed) and `error`.
    #[arg(long, requires = "vault", conflicts_with = "reference")]
    json: bool,
}

const EXAMPLE: &str = "\
Example: move a vault to the newest version of a key

  oci-secrets rewrap --to \"$KEK\" --vault AgentVault --write";

// The statuses, as tables and programs know them.
const MOVED: &str = "moved";
const TO_MOVE: &str = "to move";
const CURRENT: &str = "current";
const OTHER: &str = "other";
const FAILED: &str = "failed";

/// What became of one value.
enum Status {
    /// It moved, or would.
    Moved,
    /// It is where it shall be.
    Current,
    /// It is under a key that was not asked for.
    Other,
    /// It stays as it was.
    Failed(AnyFault),
}

pub(super) fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode, AnyFault> {
    match (&arguments.vault, &arguments.reference) {
        (Some(vault), _) => of_vault(arguments, vault, settings),
        (None, Some(reference)) => of_input(arguments, reference, settings),
        (None, None) => Err(SourceError::NoConnect.into()),
    }
}

fn of_input(arguments: &Arguments, reference: &Reference, settings: &Settings) -> Result<ExitCode, AnyFault> {
    let input = read_input()?;
    let unusable = |source| CliError::Unseal { reference: reference.clone(), source };
    let text = str::from_utf8(&input).map_err(|_| unusable(SealError::Plaintext))?;
    let sealed: SealedValue = text.parse().map_err(unusable)?;
    if arguments.from.as_ref().is_some_and(|from| from != sealed.kek()) {
        return write_output(format!("{sealed}\n").as_bytes());
    }
    let rewrapped = block_on(settings, async |deadline| {
        let spellings = std::slice::from_ref(reference);
        Ok(sealed.rewrap(&arguments.to, spellings, &Keks::new(settings), deadline).await.map_err(unusable)?)
    })?;
    match rewrapped {
        Rewrapped::Moved(sealed) | Rewrapped::Current(sealed) => write_output(format!("{sealed}\n").as_bytes()),
    }
}

fn of_vault(arguments: &Arguments, vault: &str, settings: &Settings) -> Result<ExitCode, AnyFault> {
    let connect = Connect::of(settings)?;
    let patience = settings.deliver.deadline;
    let statuses = block_on(settings, async |_| {
        let fields = connect.fields_of(vault, is_sealed, patience).await?;
        let bar = ProgressBar::new(fields.len() as u64).with_style(ProgressStyle::default_bar());
        let keks = Keks::new(settings);
        let mut statuses = Vec::with_capacity(fields.len());
        for field in fields {
            let status = move_one(arguments, &connect, &field, &keks, || Deadline::after(patience)).await;
            statuses.push((field, status.unwrap_or_else(Status::Failed)));
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(statuses)
    })?;
    if arguments.json {
        write_json(&rows(&statuses, arguments.write))?
    } else {
        write_table(&table(&statuses, arguments.write))?
    };
    let mut failures = statuses.iter().filter_map(|(_, status)| match status {
        Status::Failed(error) => Some(error.class()),
        _ => None,
    });
    match failures.next() {
        None => Ok(ExitCode::SUCCESS),
        Some(class) => Err(CliError::Rewrap { failed: 1 + failures.count(), values: statuses.len(), class }.into()),
    }
}

async fn move_one(
    arguments: &Arguments,
    connect: &Connect,
    field: &StoredField,
    keks: &Keks<'_>,
    deadline: impl Fn() -> Deadline,
) -> Result<Status, AnyFault> {
    let sealed: SealedValue = field.value.parse::<SealedValue>()?;
    if arguments.from.as_ref().is_some_and(|from| from != sealed.kek()) {
        return Ok(Status::Other);
    }
    match sealed.rewrap(&arguments.to, &field.spellings, keks, deadline()).await? {
        Rewrapped::Current(_) => Ok(Status::Current),
        Rewrapped::Moved(sealed) => {
            if arguments.write {
                connect.replace(field, &sealed.to_string(), deadline()).await?;
            }
            Ok(Status::Moved)
        }
    }
}

/// What became of one value, for people and programs.
#[derive(Serialize)]
struct Row<'a> {
    field: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip)]
    colour: AnsiColor,
}

fn rows(statuses: &[(StoredField, Status)], written: bool) -> Vec<Row<'_>> {
    let rows = statuses.iter().map(|(field, status)| {
        let (status, colour, error) = match status {
            Status::Moved if written => (MOVED, AnsiColor::Green, None),
            Status::Moved => (TO_MOVE, AnsiColor::Yellow, None),
            Status::Current => (CURRENT, AnsiColor::Green, None),
            Status::Other => (OTHER, AnsiColor::Green, None),
            Status::Failed(error) => (FAILED, AnsiColor::Red, Some(report::chain(error))),
        };
        Row { field: &field.name, status, error, colour }
    });
    rows.collect()
}

fn table(statuses: &[(StoredField, Status)], written: bool) -> Table {
    let mut table = Table::default();
    let rows = rows(statuses, written);
    for Row { field, status, error, colour } in &rows {
        let text = match error {
            None => (*field).to_owned(),
            Some(error) if error.contains(field) => error.clone(),
            Some(error) => format!("{field}: {error}"),
        };
        table.verdict(status, *colour, text);
    }
    let count = |status| rows.iter().filter(|row| row.status == status).count();
    let moves = if written { MOVED } else { TO_MOVE };
    let (moved, current, other, failed) = (count(moves), count(CURRENT), count(OTHER), count(FAILED));
    table.line(format_args!("{moved} {moves}, {current} current already, {other} under other keys, {failed} failed"));
    if !written && moved > 0 {
        table.line("nothing is changed yet: --write stores them");
    }
    table
}

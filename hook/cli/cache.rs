//! `oci-secrets cache`: the sealed values that the broker stores for an outage.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;

use super::table::Table;
use super::{write_json, write_table};
use crate::break_glass::time;
use crate::broker::client::{BrokerError, Connection};
use crate::broker::protocol::SOCKET;
use crate::broker::source::sealed_files::{SealedFile, SealedFiles};
use crate::fault::AnyFault;
use crate::settings::{BrokerAddress, Settings};

/// A broker that works answers at once.
const PATIENCE: Duration = Duration::from_secs(3);

/// Show or remove the sealed values that the broker stores for an outage.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    List(ListArguments),
    Clear(ClearArguments),
}

/// Show which sealed values are stored, and until when they may be used.
#[derive(clap::Args)]
#[command(after_help = LIST_EXAMPLE)]
pub(super) struct ListArguments {
    /// Print JSON: a list of objects with `reference`, `source`, `item`, `version`, `fetched` and `until`.
    #[arg(long)]
    json: bool,
}

/// Remove all of them, and those in the memory of the broker. It stores them again when it fetches them.
#[derive(clap::Args)]
#[command(after_help = CLEAR_EXAMPLE)]
pub(super) struct ClearArguments {}

const LIST_EXAMPLE: &str = "\
Example: what containers could start with if 1Password did not answer now

  sudo oci-secrets cache list --json";

const CLEAR_EXAMPLE: &str = "\
Example: after [outage] was removed from the settings

  sudo oci-secrets cache clear | logger";

pub(super) fn run(verb: &Verb, settings: &Settings) -> Result<ExitCode, AnyFault> {
    let files = SealedFiles::new(&settings.outage.directory);
    match verb {
        Verb::List(ListArguments { json }) => {
            let mut stored = files.list()?;
            stored.sort_by(|one, other| one.reference.cmp(&other.reference));
            match json {
                true => write_json(&stored.iter().map(|file| as_json(file, settings)).collect::<serde_json::Value>()),
                false => write_table(&table(&stored, settings)),
            }
        }
        Verb::Clear(ClearArguments {}) => {
            forget(settings.broker.address().unwrap_or_else(|| Path::new(SOCKET).into()))?;
            let removed = files.clear()?;
            let mut table = Table::default();
            table.line(format_args!("{removed} sealed values were removed"));
            write_table(&table)
        }
    }
}

/// Makes the broker forget what it knows of the files, and the values in its memory, before the files are removed.
fn forget(broker: BrokerAddress) -> Result<(), BrokerError> {
    match Connection::open(broker, PATIENCE).and_then(Connection::forget) {
        // No broker runs.
        Err(BrokerError::Unreachable { .. }) => Ok(()),
        asked => asked,
    }
}

fn table(stored: &[SealedFile], settings: &Settings) -> Table {
    let mut table = Table::default();
    if stored.is_empty() {
        table.line("no sealed value is stored");
    }
    for file in stored {
        let fetched = time(&file.fetched);
        let until = match until(file, settings) {
            None => "not used: `sealed-values-for` under [outage] is not set".to_owned(),
            Some(until) if until <= Timestamp::now() => "too old to be used".to_owned(),
            Some(until) => format!("may be used until {}", time(&until)),
        };
        let version = file.item_version.map(|version| format!(", version {version}")).unwrap_or_default();
        table.line(&file.reference);
        table.line(format_args!("  of {}{version}, fetched {fetched}, {until}", file.source));
    }
    table
}

fn as_json(file: &SealedFile, settings: &Settings) -> serde_json::Value {
    serde_json::json!({
        "reference": file.reference,
        "source": file.source,
        "item": file.item,
        "version": file.item_version,
        "fetched": file.fetched,
        "until": until(file, settings),
    })
}

/// Until when a value may be used; none if the settings do not allow its use.
fn until(file: &SealedFile, settings: &Settings) -> Option<Timestamp> {
    file.fetched.checked_add(settings.outage.sealed_values_for?).ok()
}

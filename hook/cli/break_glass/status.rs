//! `oci-secrets break-glass status`: the open emergency, and the secrets that must be rotated.

use std::process::ExitCode;

use anstyle::AnsiColor;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::emergency::find;
use crate::break_glass::ledger::{Ledger, PendingRotation};
use crate::break_glass::store::Emergency;
use crate::break_glass::time;
use crate::cli::table::Table;
use crate::cli::{write_json, write_table};
use crate::excerpt::Excerpt;
use crate::fault::AnyFault;
use crate::settings::Settings;

/// The exit codes of monitoring plugins.
const WARNING: u8 = 1;
const CRITICAL: u8 = 2;

const EXAMPLE: &str = "\
Example: whether an emergency is open or a rotation is pending, for monitoring

  sudo oci-secrets break-glass status --json";

/// Show the emergency that is open, and every secret that must be rotated.
///
/// The exit code is for monitoring: 0 if no emergency is open and no secret must be rotated, 1 if an emergency is open or a secret
/// must be rotated, 2 if a rotation is overdue.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(in crate::cli) struct Arguments {
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode, AnyFault> {
    // The ledger is shown even if the end of an emergency cannot be recorded.
    let (emergency, failure) = match find(settings) {
        Ok(emergency) => (emergency, None),
        Err(error) => (None, Some(error)),
    };
    let ledger = Ledger::read(&settings.break_glass.directory)?;
    let now = Timestamp::now();
    match arguments.json {
        true => write_json(&as_json(emergency.as_ref(), &ledger, now))?,
        false => write_table(&table(emergency.as_ref(), &ledger, now))?,
    };
    if let Some(error) = failure {
        return Err(error);
    }
    let is_overdue = ledger.pending.values().any(|pending| pending.is_overdue(now));
    let is_quiet = emergency.is_none() && ledger.pending.is_empty();
    Ok(ExitCode::from(if is_overdue {
        CRITICAL
    } else if is_quiet {
        0
    } else {
        WARNING
    }))
}

fn table(emergency: Option<&Emergency>, ledger: &Ledger, now: Timestamp) -> Table {
    let mut table = Table::default();
    match emergency.map(Emergency::account) {
        None => table.line("no emergency is open"),
        Some(account) => {
            let (id, until, reason) = (&account.id, time(&account.until), Excerpt(&account.reason));
            table.verdict("open", AnsiColor::Yellow, format_args!("emergency {id} until {until}: {reason}"));
            for kept in &account.secrets {
                table.line(format_args!("         {} (version {})", kept.reference, kept.version));
            }
        }
    }
    for (reference, pending) in &ledger.pending {
        let (word, colour) = match pending.is_overdue(now) {
            true => ("overdue", AnsiColor::Red),
            false => ("pending", AnsiColor::Yellow),
        };
        let due = match &pending.due {
            None => "when 1Password answers again".to_owned(),
            Some(due) => format!("before {}", time(due)),
        };
        let PendingRotation { version, uses, emergency, .. } = pending;
        let last = time(&pending.last_used);
        table.verdict(word, colour, format_args!("{reference}: rotate {due}"));
        table.line(format_args!("         version {version}, uses: {uses}, the last {last} in emergency {emergency}"));
    }
    table
}

fn as_json(emergency: Option<&Emergency>, ledger: &Ledger, now: Timestamp) -> Value {
    let pending = ledger.pending.iter().map(|(reference, pending)| {
        json!({
            "reference": reference,
            "item": pending.item,
            "version": pending.version,
            "emergency": pending.emergency,
            "first_used": pending.first_used,
            "last_used": pending.last_used,
            "uses": pending.uses,
            "due": pending.due,
            "overdue": pending.is_overdue(now),
        })
    });
    json!({ "schema": 1, "open": emergency.map(Emergency::account), "pending": pending.collect::<Value>() })
}

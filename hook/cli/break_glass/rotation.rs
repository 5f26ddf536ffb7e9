//! `oci-secrets break-glass rotation`: the secrets that must be rotated.

use std::process::ExitCode;

use anstyle::AnsiColor;

use crate::break_glass::BreakGlassError;
use crate::break_glass::ledger::Ledger;
use crate::break_glass::rotation::{check, waive};
use crate::break_glass::time;
use crate::cli::request::request;
use crate::cli::table::Table;
use crate::cli::{block_on, write_output, write_table};
use crate::container::{FILES_MAX, Request};
use crate::fault::AnyFault;
use crate::reference::Reference;
use crate::report;
use crate::resolve::resolve_each;
use crate::retry::Deadline;
use crate::seal::kek::Keks;
use crate::settings::{Overdue, Settings};
use crate::source::connect::Connect;

const EXAMPLE_CHECK: &str = "\
Example: after a new value was stored

  sudo oci-secrets break-glass rotation check | grep ^pending";

const EXAMPLE_WAIVE: &str = "\
Example: a secret that will not be rotated

  sudo oci-secrets break-glass rotation waive op://AgentVault/db/password --reason retired";

/// Show or waive the rotations after an emergency.
#[derive(clap::Subcommand)]
pub(in crate::cli) enum Verb {
    /// Compare every secret that must be rotated with 1Password, and remove those that were rotated.
    ///
    /// Container starts do the same for the secrets that they request.
    #[command(after_help = EXAMPLE_CHECK)]
    Check,
    /// Remove a secret that will not be rotated.
    #[command(after_help = EXAMPLE_WAIVE)]
    Waive {
        /// The reference, as `status` shows it.
        #[arg(value_name = "REFERENCE")]
        reference: Reference,
        /// The reason, which is recorded.
        #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
        reason: String,
    },
}

pub(super) fn run(verb: &Verb, settings: &Settings) -> Result<ExitCode, AnyFault> {
    match verb {
        Verb::Check => check_all(settings),
        Verb::Waive { reference, reason } => {
            block_on(settings, async |_| Ok(waive(reference, reason, settings).await?))?;
            write_output(format!("waived the rotation of {reference}\n").as_bytes())
        }
    }
}

fn check_all(settings: &Settings) -> Result<ExitCode, AnyFault> {
    let ledger = Ledger::read(&settings.break_glass.directory)?;
    let connect = Connect::of(settings)?;
    let requests: Vec<Request> =
        ledger.pending.keys().filter_map(|reference| Some(request(&reference.parse().ok()?))).collect();
    let (mut table, mut failure) = (Table::default(), None);
    let mut resolved = Vec::new();
    let findings = block_on(settings, async |_| {
        let keks = Keks::new(settings);
        for some in requests.chunks(FILES_MAX) {
            let deadline = Deadline::after(settings.deliver.deadline);
            let outcomes = resolve_each(some, &connect, &keks, settings.deliver.plaintext, deadline).await;
            for (request, outcome) in outcomes {
                match outcome {
                    Ok(secret) => resolved.extend(secret),
                    Err(error) => {
                        let cause = report::chain(&error);
                        table.verdict("unknown", AnsiColor::Red, format_args!("{}: {cause}", request.reference));
                        failure.get_or_insert(AnyFault::from(error));
                    }
                }
            }
        }
        // No secret is delivered here, so none is refused.
        Ok(check(&resolved, Overdue::Warn, settings).await?)
    })?;
    for reference in &findings.rotated {
        table.verdict("rotated", AnsiColor::Green, reference);
    }
    for (reference, due) in &findings.pending {
        let due = time(due);
        table.verdict("pending", AnsiColor::Yellow, format_args!("{reference}: rotate before {due}"));
    }
    if table.is_empty() {
        table.line("no secret must be rotated");
    }
    write_table(&table)?;
    let unrecorded: Option<BreakGlassError> = findings.unrecorded;
    match unrecorded.map(AnyFault::from).or(failure) {
        Some(error) => Err(error),
        None => Ok(ExitCode::SUCCESS),
    }
}

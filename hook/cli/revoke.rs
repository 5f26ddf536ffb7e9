//! `oci-secrets revoke`: takes secrets away from running containers, and from starts.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::error::CliError;
use super::refresh::short_id;
use super::table::Table;
use super::{PROGRAM, load, write_table};
use crate::broker::client::Connection;
use crate::broker::protocol::{Order, Withdrawal, Withdrawn};
use crate::broker::revoked::{Revocation, Revoked};
use crate::excerpt::printable;
use crate::fault::AnyFault;
use crate::reference::Reference;
use crate::report;

/// How long all removals may take.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// What the kernel shows for a process without a login.
const NO_LOGIN: u32 = u32::MAX;

/// Take a secret away from all running containers of this host, and refuse it to starts.
///
/// Starts are refused until the item has a newer version in 1Password, or until --end. It asks the broker, and is for root. It cannot
/// take back what a process has read: change the password itself, too.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// The reference, as containers request it.
    #[arg(value_name = "REFERENCE", required_unless_present = "container", conflicts_with = "container")]
    reference: Option<Reference>,
    /// All files of the container whose id has this prefix.
    #[arg(long, value_name = "PREFIX")]
    container: Option<String>,
    /// Why, for the audit trail and for those whose starts are refused.
    #[arg(long, value_name = "TEXT", required_unless_present = "end")]
    reason: Option<String>,
    /// Allow it again.
    #[arg(long)]
    end: bool,
}

const EXAMPLE: &str = "\
Example: after a password was leaked

  sudo oci-secrets revoke op://AgentVault/database/password --reason leaked";

pub(super) fn run(arguments: &Arguments, settings: &Path) -> Result<ExitCode, AnyFault> {
    let settings = load(settings)?;
    let broker = settings.broker.address().ok_or(CliError::NoBroker)?;
    let revoked = match (&arguments.reference, &arguments.container) {
        (Some(reference), _) => Revoked::Reference(reference.as_str().to_owned()),
        (None, container) => Revoked::Container(container.clone().unwrap_or_default()),
    };
    let order = Order { revoked, reason: arguments.reason.clone(), login_uid: login_uid() };
    let connection = Connection::open(broker, PATIENCE)?;
    if arguments.end {
        let (ended, _) = connection.revocations(Some(order))?;
        let mut table = Table::default();
        ended.iter().for_each(|one| table.line(format_args!("{} is allowed again", one.revoked)));
        return write_table(&table);
    }
    let withdrawn = connection.revoke(order)?;
    let code = write_table(&table(&withdrawn))?;
    if let Some(cause) = &withdrawn.unrecorded {
        report::warn(PROGRAM, &format!("there is no record of the revocation: {cause}"));
    }
    match withdrawn.failed {
        0 => Ok(code),
        failed => Err(CliError::Revoke { failed, containers: withdrawn.count }.into()),
    }
}

fn table(Withdrawn { revocation, containers, count, .. }: &Withdrawn) -> Table {
    let mut table = Table::default();
    for Withdrawal { container, files, error } in containers {
        let files = format!("{files} file{}", if *files == 1 { "" } else { "s" });
        let outcome = match error {
            None => format!("{files} removed"),
            Some(error) => format!("{files} NOT removed: {error}"),
        };
        table.line(format_args!("{}  {}", short_id(container), printable(&outcome)));
    }
    if *count > containers.len() {
        table.line(format_args!("and {} more", count - containers.len()));
    }
    if containers.is_empty() {
        table.line("no running container has it");
    }
    table.line(describe(revocation));
    if revocation.reference().is_some() && revocation.item.is_none() {
        table.line(
            "the source did not say which field that is: containers that name it in another way keep it until it does",
        );
    }
    table
}

/// A revocation in one line.
pub(super) fn describe(Revocation { revoked, since, reason, version, .. }: &Revocation) -> String {
    let until = match version {
        Some(version) => format!("until the item has a version after {version}, or `--end`"),
        None => "until `--end`".to_owned(),
    };
    format!("{} is revoked since {since:.0}, {until}: {}", printable(&revoked.to_string()), printable(reason))
}

/// The user who has logged in, whatever the user became since.
fn login_uid() -> Option<u32> {
    let uid = fs::read_to_string("/proc/self/loginuid").ok()?.trim().parse().ok()?;
    (uid != NO_LOGIN).then_some(uid)
}

//! `oci-secrets refresh`: gives running containers the values that 1Password has now.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::error::CliError;
use super::table::Table;
use super::{load, write_table};
use crate::break_glass::time;
use crate::broker::client::Connection;
use crate::broker::live::summary::Summary;
use crate::broker::protocol::Selection;
use crate::fault::AnyFault;
use crate::reference::Reference;

/// How long all updates may take.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// The length of the container id that engines show.
const ID_CHARACTERS: usize = 12;

/// Give running containers the values that 1Password has now.
///
/// It does not wait for the next period. It asks the broker, and is for containers with the annotation run.secrets.update=live. Containers
/// whose values are the same keep their files.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// The containers whose id has this prefix.
    #[arg(long, value_name = "PREFIX")]
    container: Option<String>,
    /// The containers that request this reference.
    #[arg(long, value_name = "REFERENCE")]
    reference: Option<Reference>,
}

const EXAMPLE: &str = "\
Example: after a password was changed

  sudo oci-secrets refresh --reference op://AgentVault/database/password";

pub(super) fn run(arguments: &Arguments, settings: &Path) -> Result<ExitCode, AnyFault> {
    let settings = load(settings)?;
    let broker = settings.broker.address().ok_or(CliError::NoBroker)?;
    let selection = Selection {
        container: arguments.container.clone(),
        reference: arguments.reference.as_ref().map(|reference| reference.as_str().to_owned()),
        live: true,
    };
    let (containers, count) = Connection::open(broker, PATIENCE)?.running(selection, true)?;
    let mut table = Table::default();
    if containers.is_empty() {
        table.line("no running container is updated");
    }
    containers.iter().for_each(|container| table.line(describe(container)));
    if count > containers.len() {
        table.line(format_args!("and {} more", count - containers.len()));
    }
    let failed = containers.iter().filter(|container| container.error.is_some()).count();
    let code = write_table(&table)?;
    match failed {
        0 => Ok(code),
        failed => Err(CliError::Refresh { failed, containers: count }.into()),
    }
}

/// A container in one line.
pub(super) fn describe(summary: &Summary) -> String {
    format!("{}  {}", short_id(&summary.container), state(summary))
}

/// The beginning of an id, as engines show it.
pub(super) fn short_id(id: &str) -> String {
    id.chars().take(ID_CHARACTERS).collect()
}

/// Which files a container has, and why no others.
pub(super) fn state(summary: &Summary) -> String {
    let Summary { generation, since, checked, error, live, removed, withdrawn_in, .. } = summary;
    let checked = checked.filter(|_| *live).map(|at| format!(", current at {}", time(&at))).unwrap_or_default();
    let removed = match (withdrawn_in, removed) {
        (Some(0), _) => ", all files removed because their time is over".to_owned(),
        (Some(seconds), 0) => format!(", all files are removed in {seconds} s"),
        (None, 0) => String::new(),
        (_, 1) => ", 1 reference removed because it was revoked".to_owned(),
        (_, many) => format!(", {many} references removed because they were revoked"),
    };
    let error = error.as_ref().map(|error| format!("; it keeps them: {error}")).unwrap_or_default();
    format!("generation {generation}, since {}{checked}{removed}{error}", time(since))
}

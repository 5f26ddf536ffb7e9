//! `oci-secrets explain --last`: the hook's own error.

use std::process::ExitCode;

use super::subject::{Target, Whose, ids};
use crate::cli::error::CliError;
use crate::cli::table::Table;
use crate::cli::{write_json, write_table};
use crate::fault::AnyFault;
use crate::refusals::{self, Refused};

/// Prints the last refusal of a container, or of any.
pub(super) fn run(target: Option<&Target>, engine: Option<Whose>, json: bool) -> Result<ExitCode, AnyFault> {
    let container = match target {
        Some(Target::Reference(_)) => return Err(CliError::NoContainer.into()),
        Some(Target::Name(name)) => Some(name.as_str()),
        None => None,
    };
    let refused = find(refusals::kept().unwrap_or_default(), container, engine);
    let refused = refused.ok_or_else(|| CliError::NoRefusal { container: container.map(str::to_owned) })?;
    if json { write_json(&refused) } else { write_table(&table(&refused)) }
}

/// The newest refusal of the container. If none has its name, engines are asked for the id of the container with this name.
fn find(mut kept: Vec<Refused>, container: Option<&str>, engine: Option<Whose>) -> Option<Refused> {
    let Some(container) = container else { return kept.into_iter().next() };
    let position = |name: &str| kept.iter().position(|refused| refused.is_of(name));
    let position = position(container).or_else(|| ids(container, engine).iter().find_map(|id| position(id)))?;
    Some(kept.swap_remove(position))
}

fn table(refused: &Refused) -> Table {
    let mut table = Table::default();
    let id = refused.container.as_deref().map(|id| format!(" {id}"));
    let known = [refused.name.as_deref(), refused.engine.as_deref()];
    let known: Vec<&str> = known.into_iter().flatten().collect();
    let known = if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) };
    let container = id.unwrap_or_else(|| " without an id".to_owned());
    let time = refused.time.strftime("%Y-%m-%d %H:%M:%S UTC");
    table.line(format_args!("container{container}{known}, refused at {time} with exit code {}", refused.exit_code));
    table.line(format_args!("error: {}", refused.error));
    if let Some(hint) = &refused.hint {
        table.line(format_args!("hint: {hint}"));
    }
    table
}

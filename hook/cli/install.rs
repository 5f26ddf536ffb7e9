//! `oci-secrets install`: makes an engine call the hook. `oci-secrets uninstall`: takes that back.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;
use similar::TextDiff;

use super::error::CliError;
use super::{host, write_json, write_output};
use crate::engine::{Change, Engine, HOOK_PATH, Hook, Host, InstallError, Outcome};
use crate::fault::AnyFault;
use crate::settings::{SETTINGS_PATH, file};

/// Print the files that make an engine call the hook, or write them.
///
/// Root makes it for the host, another user for engines of their own that run without root, with settings of their own in
/// $XDG_CONFIG_HOME/oci-secrets. The program itself must be installed already: some engines start containers without their
/// secrets, in silence, when the hook is missing. What the engine's configuration says already stays in effect.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// The engine that shall call the hook.
    #[arg(long)]
    engine: Engine,
    /// Write the files; what is in their place and differs is left alone, and an error.
    #[arg(long)]
    write: bool,
    /// Print what would change in each file, and write nothing.
    #[arg(long, conflicts_with = "write")]
    diff: bool,
    /// Where the hook is installed.
    #[arg(long, value_name = "PATH", default_value = HOOK_PATH)]
    hook: PathBuf,
    /// Print JSON: a list of objects with `path`, and `content`, `diff` or what became of it (`written`: written, unchanged).
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "\
Example: let podman call the hook for every container of this host that asks for secrets

  sudo oci-secrets install --engine podman --write";

/// Print what would take back `install`, or do it.
///
/// Files that `install` wrote are removed, and what it added to files of others. A file that was changed since is an error.
/// Remove the hook's program after this: while an engine is configured to call a missing program, some start containers without
/// their secrets, and report nothing. podman and CRI-O read the same hook files: they are removed for both.
#[derive(clap::Args)]
#[command(after_help = UNINSTALL_EXAMPLE)]
pub(super) struct UninstallArguments {
    /// The engine that shall no longer call the hook [default: all].
    #[arg(long)]
    engine: Option<Engine>,
    /// Do it. Without this, the changes are printed.
    #[arg(long)]
    write: bool,
    /// Print JSON: a list of objects with `path`, and `diff` or what became of it (`written`: written, removed).
    #[arg(long)]
    json: bool,
}

const UNINSTALL_EXAMPLE: &str = "\
Example: before the programs are removed

  sudo oci-secrets uninstall --write";

/// What became of a file, or would.
#[derive(Default, Serialize)]
struct Row {
    path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    written: Option<&'static str>,
}

impl ValueEnum for Engine {
    fn value_variants<'a>() -> &'a [Engine] {
        &Engine::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.name()))
    }
}

pub(super) fn run(arguments: &Arguments, settings: &Path) -> Result<ExitCode, AnyFault> {
    let host = host();
    let hook = hook(&arguments.hook, settings);
    let rows = if arguments.write {
        apply(changes(arguments.engine, &host, &hook)?)?
    } else {
        let changes = arguments.engine.install(&host, &hook)?;
        changes
            .iter()
            .map(|change| content(change).filter(|_| !arguments.diff).map_or_else(|| diff(change), Ok))
            .collect::<Result<_, _>>()?
    };
    print(&rows, arguments.json)
}

pub(super) fn uninstall(arguments: &UninstallArguments) -> Result<ExitCode, AnyFault> {
    let mut host = host();
    let engines = arguments.engine.map_or(Engine::ALL.to_vec(), |engine| vec![engine]);
    let mut changes = Vec::new();
    for engine in engines {
        let more = engine.uninstall(&host)?;
        host = host.with(&more);
        changes.extend(more);
    }
    let rows = if arguments.write { apply(changes)? } else { changes.iter().map(diff).collect::<Result<_, _>>()? };
    print(&rows, arguments.json)
}

/// The hook for an engine, which calls it from another working directory.
pub(super) fn hook(path: &Path, settings: &Path) -> Hook {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let settings = (settings != Path::new(SETTINGS_PATH)).then(|| absolute(settings));
    Hook { path: absolute(path), settings }
}

/// What `--write` would do; an error if it would refuse.
pub(super) fn changes(engine: Engine, host: &Host, hook: &Hook) -> Result<Vec<Change>, AnyFault> {
    let changes = engine.install(host, hook)?;
    file::require_program(&hook.path).map_err(|source| CliError::Hook { source })?;
    for change in &changes {
        change.outcome()?;
    }
    engine.calls(&host.with(&changes))?;
    Ok(changes)
}

fn apply(changes: Vec<Change>) -> Result<Vec<Row>, InstallError> {
    let row = |change: Change| {
        let written = match change.apply()? {
            Outcome::Written => "written",
            Outcome::Removed => "removed",
            Outcome::Unchanged => "unchanged",
        };
        Ok(Row { path: change.path, written: Some(written), ..Row::default() })
    };
    changes.into_iter().map(row).collect()
}

/// All of a file, unless it would be removed.
fn content(change: &Change) -> Option<Row> {
    let content = Some(change.content.clone()?);
    Some(Row { path: change.path.clone(), content, ..Row::default() })
}

/// What would change in a file, in the unified format.
fn diff(change: &Change) -> Result<Row, InstallError> {
    let before = change.before()?;
    let name =
        |text: &Option<String>| text.as_ref().map_or("/dev/null".to_owned(), |_| change.path.display().to_string());
    let (old, new) = (before.as_deref().unwrap_or_default(), change.content.as_deref().unwrap_or_default());
    let text = TextDiff::from_lines(old, new);
    let diff = text.unified_diff().header(&name(&before), &name(&change.content)).to_string();
    Ok(Row { path: change.path.clone(), diff: Some(diff), ..Row::default() })
}

fn print(rows: &[Row], json: bool) -> Result<ExitCode, AnyFault> {
    if json { write_json(&rows) } else { write_output(text(rows).as_bytes()) }
}

fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    for Row { path, content, diff, written } in rows {
        let path = path.display();
        let _ = match (content, diff, written) {
            (Some(content), _, _) => write!(text, "==> {path} <==\n{content}"),
            (_, Some(diff), _) => write!(text, "{diff}"),
            (_, _, written) => writeln!(text, "{:<9} {path}", written.unwrap_or_default()),
        };
    }
    text
}

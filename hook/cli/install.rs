//! `oci-secrets install`: makes an engine call the hook.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

use super::error::CliError;
use super::{host, write_json, write_output};
use crate::engine::{Engine, HOOK_PATH, Hook, Written};
use crate::fault::AnyFault;
use crate::settings::{SETTINGS_PATH, file};

/// Print the files that make an engine call the hook, or write them.
///
/// Root makes it for the host, another user for engines of their own that run without root, with settings of their own in
/// $XDG_CONFIG_HOME/oci-secrets. The program itself must be installed already: some engines start containers without their
/// secrets, in silence, when the hook is missing.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// Who shall call the hook.
    #[arg(long)]
    engine: Engine,
    /// Write the files; what is in their place and differs is left alone, and an error.
    #[arg(long)]
    write: bool,
    /// Where the hook is installed.
    #[arg(long, value_name = "PATH", default_value = HOOK_PATH)]
    hook: PathBuf,
    /// Print JSON: a list of objects with `path`, and `content` or what became of it (`written`, `unchanged`).
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "\
Example: let podman call the hook for every container of this host that asks for secrets

  sudo oci-secrets install --engine podman --write";

/// What became of a file, or would.
#[derive(Serialize)]
struct Row<'a> {
    path: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
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
    // The engine calls the hook from another working directory.
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let settings = (settings != Path::new(SETTINGS_PATH)).then(|| absolute(settings));
    let hook = Hook { path: absolute(&arguments.hook), settings };
    let files = arguments.engine.files(&host, &hook)?;
    if arguments.write {
        file::require_program(&hook.path).map_err(|source| CliError::Hook { source })?;
    }
    let mut rows = Vec::with_capacity(files.len());
    for file in &files {
        let (content, written) = if arguments.write {
            let written = match file.write()? {
                Written::Now => "written",
                Written::Before => "unchanged",
            };
            (None, Some(written))
        } else {
            (Some(file.content.as_str()), None)
        };
        rows.push(Row { path: &file.path, content, written });
    }
    if arguments.json { write_json(&rows) } else { write_output(text(&rows).as_bytes()) }
}

fn text(rows: &[Row<'_>]) -> String {
    let mut text = String::new();
    for Row { path, content, written } in rows {
        let path = path.display();
        let _ = match (content, written) {
            (Some(content), _) => write!(text, "==> {path} <==\n{content}"),
            (None, written) => writeln!(text, "{:<9} {path}", written.unwrap_or_default()),
        };
    }
    text
}

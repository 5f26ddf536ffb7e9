//! `oci-secrets audit verify`: finds changes to a chain.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::files::{Files, read};
use crate::audit::{AuditError, Hash, Verdict, Verification};
use crate::cli::table::Table;
use crate::cli::{write_json, write_table};
use crate::fault::AnyFault;

const EXAMPLE: &str = "\
Example: the file before the last rotation, and the one after it

  oci-secrets audit verify audit.jsonl.1 audit.jsonl";

/// Find lines of a chained audit file that were removed, changed or reordered.
///
/// The file does not reveal that its end was truncated, or that it was rewritten as a whole: store the hash of the last line elsewhere,
/// and pass it to `--head` later. The exit code is 65 if there is a problem.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    files: Files,
    /// The stored hash of an earlier last line, which must still exist.
    #[arg(long, value_name = "HASH")]
    head: Option<Hash>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The result for all files.
#[derive(Serialize)]
struct Report {
    files: Vec<OfFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<Hash>,
    /// The number of lines after the one with the given hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    lines_after_head: Option<u64>,
}

#[derive(Serialize)]
struct OfFile {
    file: String,
    #[serde(flatten)]
    verdict: Verdict,
}

pub(super) fn run(arguments: &Arguments, settings: &Path) -> Result<ExitCode, AnyFault> {
    let paths = arguments.files.paths(settings)?;
    let mut verification = Verification::with_head(arguments.head);
    let mut files = Vec::with_capacity(paths.len());
    for (index, path) in paths.iter().enumerate() {
        let verdict = verification.read(&read(path)?, index + 1 == paths.len());
        files.push(OfFile { file: path.display().to_string(), verdict });
    }
    let report = Report { files, head: verification.head(), lines_after_head: verification.lines_after_head() };
    let code = if arguments.json { write_json(&report) } else { write_table(&table(&report)) }?;
    match report.files.iter().map(|file| file.verdict.problems.len()).sum() {
        0 => Ok(code),
        problems => Err(AuditError::NotAsWritten { problems }.into()),
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::default();
    for OfFile { file, verdict } in &report.files {
        for note in &verdict.notes {
            table.line(format_args!("note     {file}:{}: {}", note.line, note.what));
        }
        for problem in &verdict.problems {
            table.line(format_args!("problem  {file}:{}: {}", problem.line, problem.what));
        }
        if verdict.problems.is_empty() {
            let joined = if verdict.continues == Some(true) { ", continuing the previous file" } else { "" };
            table.line(format_args!("ok       {file}: {} lines of a chain{joined}", verdict.lines));
        }
    }
    if let Some(after) = report.lines_after_head {
        table.line(format_args!("ok       found the line with the given hash, and {after} lines after it"));
    }
    if let Some(head) = report.head {
        table.line(format_args!("head     {head}"));
    }
    table
}

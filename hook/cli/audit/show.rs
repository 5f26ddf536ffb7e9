//! `oci-secrets audit show`: the records that someone looks for, and what 1Password Connect says of them.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp};

use super::{Files, plain, read};
use crate::audit::{AuditError, Entry, Filter, Line, Reading, compare};
use crate::cli::{PROGRAM, block_on, load, write_output};
use crate::fault::AnyFault;
use crate::report;
use crate::settings::{Pattern, PatternError};
use crate::source::connect::Connect;

const EXAMPLE: &str = "\
Example: oci-secrets audit show --since 2h --decision refused";

/// As much of a container's id as people know it by.
const ID_CHARACTERS: usize = 12;
/// How much earlier than a start's record its requests may have been made, by a clock of another machine.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(2);

/// Show records of the audit trail, those of certain containers, references or times.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    files: Files,
    /// Those whose container's id begins so.
    #[arg(long, value_name = "PREFIX")]
    container: Option<String>,
    /// Those that asked for such a reference; a pattern as in a grant.
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    reference: Option<Pattern>,
    /// Those that were decided so: delivered, break-glass, refused.
    #[arg(long, value_name = "DECISION")]
    decision: Option<String>,
    /// Those whose use of a static token was not as [static-token] in the settings expects.
    #[arg(long)]
    anomalies: bool,
    /// Those of starts since then: a time in RFC 3339, or as long ago as 2h.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Those of starts before then.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Print the records as they are, or the differences, one line of JSON each.
    #[arg(long)]
    json: bool,
    /// Compare with what 1Password Connect says our token read; ends with 65 where they differ.
    #[arg(long, conflicts_with_all = ["container", "reference", "decision", "anomalies"])]
    activity: bool,
}

pub(super) fn run(arguments: &Arguments, settings: &Path) -> Result<ExitCode, AnyFault> {
    let filter = Filter {
        container: arguments.container.clone(),
        reference: arguments.reference.clone(),
        decision: arguments.decision.clone(),
        anomalies: arguments.anomalies,
        since: arguments.since,
        until: arguments.until,
    };
    let mut records = Vec::new();
    for path in arguments.files.paths(settings)? {
        records.extend(records_of(&path, &filter)?);
    }
    if arguments.json && !arguments.activity {
        return write_output(records.iter().map(|(text, _)| format!("{text}\n")).collect::<String>().as_bytes());
    }
    let entries: Vec<Entry> = records.into_iter().map(|(_, entry)| entry).collect();
    if arguments.activity {
        with_activity(&entries, arguments, settings)
    } else {
        write_output(table(&entries).as_bytes())
    }
}

/// The records of a file that are looked for, each with its line.
fn records_of(path: &Path, filter: &Filter) -> Result<Vec<(String, Entry)>, AnyFault> {
    let (mut records, mut unreadable) = (Vec::new(), 0_usize);
    for line in String::from_utf8_lossy(&read(path)?).lines() {
        match Line::parse(line) {
            Line::Start(entry) if filter.matches(&entry) => records.push((line.to_owned(), entry)),
            Line::Start(_) | Line::Other | Line::Empty => {}
            Line::Unreadable => unreadable += 1,
        }
    }
    if unreadable > 0 {
        report::note(PROGRAM, &format!("{}: lines that are no records: {unreadable}", path.display()));
    }
    Ok(records)
}

fn table(entries: &[Entry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let Entry { time, decision, container, secrets, refusal, .. } = entry;
        let id: String = plain(container).chars().take(ID_CHARACTERS).collect();
        let code = refusal.as_ref().map(|refusal| format!(" {}", refusal.code)).unwrap_or_default();
        let _ = writeln!(text, "{time:.3}  {id:<ID_CHARACTERS$}  {}{code}", plain(decision));
        for Reading { file, reference, item, item_version, kept } in secrets {
            let _ = write!(text, "  {}: {}", plain(file), plain(reference));
            if let (Some(item), Some(version)) = (item, item_version) {
                let _ = write!(text, ", item {} version {version}", plain(item));
            }
            if *kept {
                text.push_str(", kept for an emergency");
            }
            text.push('\n');
        }
        for anomaly in entry.anomalies() {
            let _ = writeln!(text, "  static token: {}", plain(anomaly));
        }
        if let Some(refusal) = refusal {
            let _ = writeln!(text, "  {}", plain(&refusal.message));
        }
    }
    text
}

fn with_activity(entries: &[Entry], arguments: &Arguments, settings: &Path) -> Result<ExitCode, AnyFault> {
    let settings = load(settings)?;
    let connect = Connect::of(&settings)?;
    let first = entries.iter().map(|entry| entry.time).min();
    let since = arguments.since.or_else(|| first?.checked_sub(CLOCK_SKEW).ok()).unwrap_or_else(Timestamp::now);
    let (mut seen, token) = block_on(&settings, async |deadline| {
        let seen = connect.activity(since, deadline).await?;
        Ok((seen, connect.token(deadline).await?.id()))
    })?;
    seen.retain(|seen| arguments.until.is_none_or(|until| seen.timestamp < until));
    let comparison = compare(entries, &seen, token.as_deref());
    let mut text = String::new();
    for difference in &comparison.differences {
        let line = match arguments.json {
            true => {
                serde_json::to_string(difference).map_err(|source| AnyFault::from(AuditError::Encode { source }))?
            }
            false => plain(&difference.to_string()),
        };
        let _ = writeln!(text, "{line}");
    }
    if !arguments.json {
        let _ = writeln!(text, "items that were read by both accounts since {since:.0}: {}", comparison.agreed);
    }
    let code = write_output(text.as_bytes())?;
    match comparison.differences.len() {
        0 => Ok(code),
        differences => Err(AnyFault::from(AuditError::Differ { differences })),
    }
}

fn pattern(text: &str) -> Result<Pattern, PatternError> {
    Pattern::try_from(text.to_owned())
}

/// A time, or how long ago it was.
fn time(text: &str) -> Result<Timestamp, String> {
    let ago = || Timestamp::now().checked_sub(text.parse::<SignedDuration>().ok()?).ok();
    text.parse()
        .ok()
        .or_else(ago)
        .ok_or_else(|| "expected a time as 2026-05-04T10:00:00Z, or a duration as 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_moment_or_how_long_ago_it_was() {
        assert_eq!(time("2026-05-04T12:00:00+02:00").unwrap().to_string(), "2026-05-04T10:00:00Z");
        let (before, ago, after) = (Timestamp::now(), time("2h").unwrap(), Timestamp::now());
        let hours = SignedDuration::from_hours(2);
        assert!((before - hours..=after - hours).contains(&ago));
        assert!(time("yesterday").is_err());
    }
}

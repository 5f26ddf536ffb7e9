//! `oci-secrets audit show`: selected records, or the differences to 1Password Connect's log.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp};

use super::files::{Files, read};
use crate::audit::{Act, AuditError, Entry, Filter, Line, Reading, compare};
use crate::break_glass::time as minutes;
use crate::cli::{PROGRAM, block_on, load, write_output};
use crate::excerpt::printable as plain;
use crate::fault::AnyFault;
use crate::report;
use crate::settings::{Pattern, PatternError};
use crate::source::connect::Connect;

const EXAMPLE: &str = "\
Example: oci-secrets audit show --since 2h --decision refused";

/// The length of the container id that engines show.
const ID_CHARACTERS: usize = 12;
/// How much earlier than the record Connect may log the requests of a start: its clock may differ.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(2);

/// Show records of container starts and of break-glass, selected by container, reference or time.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    files: Files,
    /// Records of containers whose id has this prefix.
    #[arg(long, value_name = "PREFIX")]
    container: Option<String>,
    /// Records with a reference that matches this pattern, as in a grant.
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    reference: Option<Pattern>,
    /// Records with this decision: delivered, break-glass, refused, updated, unchanged, not-updated, withdrawn or not-withdrawn; or this
    /// event: revoke, revoke-end, open, use, close, rotated, waive or drill.
    #[arg(long, value_name = "DECISION")]
    decision: Option<String>,
    /// Records of a use of a static token that [static-token] in the settings does not expect.
    #[arg(long)]
    anomalies: bool,
    /// Records since this time: RFC 3339, or a duration before now, as 2h.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Records before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Print the records or differences as lines of JSON.
    #[arg(long)]
    json: bool,
    /// Compare with the log of 1Password Connect; exit with 65 if they differ.
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
    if arguments.activity {
        let starts = records.into_iter().filter_map(|(_, record)| match record {
            Line::Start(entry) => Some(entry),
            _ => None,
        });
        return with_activity(&starts.collect::<Vec<_>>(), arguments, settings);
    }
    let mut output = String::new();
    for (text, record) in &records {
        match record {
            _ if arguments.json => _ = writeln!(output, "{text}"),
            Line::Start(entry) => start(entry, &mut output),
            Line::Act(act) => self::act(act, &mut output),
            _ => {}
        }
    }
    write_output(output.as_bytes())
}

/// The selected records of a file, each with its line.
fn records_of(path: &Path, filter: &Filter) -> Result<Vec<(String, Line)>, AnyFault> {
    let (mut records, mut unreadable) = (Vec::new(), 0_usize);
    for line in String::from_utf8_lossy(&read(path)?).lines() {
        match Line::parse(line) {
            Line::Start(entry) if filter.matches(&entry) => records.push((line.to_owned(), Line::Start(entry))),
            Line::Act(act) if filter.matches_act(&act) => records.push((line.to_owned(), Line::Act(act))),
            Line::Start(_) | Line::Act(_) | Line::Other | Line::Empty => {}
            Line::Unreadable => unreadable += 1,
        }
    }
    if unreadable > 0 {
        report::note(PROGRAM, &format!("{}: lines that are not records: {unreadable}", path.display()));
    }
    Ok(records)
}

fn start(entry: &Entry, text: &mut String) {
    let Entry { time, decision, container, secrets, refusal, .. } = entry;
    let id: String = plain(container).chars().take(ID_CHARACTERS).collect();
    let code = refusal.as_ref().map(|refusal| format!(" {}", refusal.code)).unwrap_or_default();
    let _ = writeln!(text, "{time:.3}  {id:<ID_CHARACTERS$}  {}{code}", plain(decision));
    for Reading { file, reference, item, item_version, kept, fetched, fetched_for: _, outage } in secrets {
        let _ = write!(text, "  {}: {}", plain(file), plain(reference));
        if let (Some(item), Some(version)) = (item, item_version) {
            let _ = write!(text, ", item {} version {version}", plain(item));
        }
        if *kept {
            text.push_str(", from an emergency");
        }
        if let Some(fetched) = fetched {
            let _ = write!(text, ", fetched {fetched:.0}");
        }
        if *outage {
            text.push_str(", used in an outage");
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

/// Prints an action of break-glass. The id of an emergency is as long as the shown id of a container.
fn act(act: &Act, text: &mut String) {
    let id: String = plain(act.emergency.as_deref().unwrap_or("-")).chars().take(ID_CHARACTERS).collect();
    let _ = writeln!(text, "{:.3}  {id:<ID_CHARACTERS$}  {}", act.time, plain(&act.event));
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "  {name}{}", plain(&value));
        }
    };
    line("until ", act.until.as_ref().map(minutes));
    line("operators: ", (!act.operators.is_empty()).then(|| act.operators.join(", ")));
    line("reason: ", act.reason.clone());
    line("ticket: ", act.ticket.clone());
    line("container ", act.container.clone());
    line("cause: ", act.cause.clone());
    line("expired", act.expired.then(String::new));
    line("tampered with: its key was removed from the kernel's keyring", act.tampered.then(String::new));
    line("", act.reference.clone());
    line(
        "secrets: ",
        act.count().map(|count| format!("{count}, different in 1Password: {}", act.stale.unwrap_or_default())),
    );
    line("failed: ", act.failure.clone());
    for kept in act.secrets() {
        let version = kept.version.map(|version| format!(", version {version}")).unwrap_or_default();
        line("", Some(format!("{}{version}", kept.reference)));
    }
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
            true => serde_json::to_string(difference).map_err(|source| AuditError::Encode { source })?,
            false => plain(&difference.to_string()),
        };
        let _ = writeln!(text, "{line}");
    }
    for read in &comparison.commands {
        let line = match arguments.json {
            true => serde_json::to_string(read).map_err(|source| AuditError::Encode { source })?,
            false => plain(&read.to_string()),
        };
        let _ = writeln!(text, "{line}");
    }
    if !arguments.json {
        let _ = writeln!(text, "items in both since {since:.0}: {}", comparison.agreed);
    }
    let code = write_output(text.as_bytes())?;
    match comparison.differences.len() {
        0 => Ok(code),
        differences => Err(AuditError::Differ { differences }.into()),
    }
}

fn pattern(text: &str) -> Result<Pattern, PatternError> {
    Pattern::try_from(text.to_owned())
}

/// A time, or a duration before now.
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
    fn a_time_is_absolute_or_a_duration_before_now() {
        assert_eq!(time("2026-05-04T12:00:00+02:00").unwrap().to_string(), "2026-05-04T10:00:00Z");
        let (before, ago, after) = (Timestamp::now(), time("2h").unwrap(), Timestamp::now());
        let hours = SignedDuration::from_hours(2);
        assert!((before - hours..=after - hours).contains(&ago));
        assert!(time("yesterday").is_err());
    }
}

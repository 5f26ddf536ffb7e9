//! Tests whether an emergency could be opened and recorded, and what the last one left.

use jiff::Timestamp;

use crate::break_glass::channel::Channel;
use crate::break_glass::ledger::Ledger;
use crate::break_glass::store::Emergency;
use crate::break_glass::{BreakGlassError, time};
use crate::cli::break_glass::{admit, read};
use crate::cli::finding::Finding;
use crate::cli::is_root;
use crate::excerpt::Excerpt;
use crate::fault::Class;
use crate::settings::{self, Overdue, Settings};

/// How long before its expiry a sealed file causes a warning.
const EXPIRY_WARNING_DAYS: i64 = 14;

const SUBJECT: &str = "break-glass";

/// The findings about break-glass. Only root can use it.
pub(super) fn findings(settings: &Settings) -> Vec<Finding> {
    if !is_root() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if let Some(channel) = &settings.break_glass.audit {
        findings.push(records(channel, settings));
        findings.extend(Emergency::rehearse().err().map(|error| problem(error.into())));
    }
    findings.extend(settings.break_glass.sealed.as_deref().map(sealed));
    findings.extend(open());
    findings.extend(pending(settings));
    findings
}

fn records(channel: &settings::Channel, settings: &Settings) -> Finding {
    match Channel::test(settings) {
        Ok(()) => Finding::ok(SUBJECT, format!("records go to {channel}")),
        Err(error) => problem(error.into()),
    }
}

/// Whether the sealed file could be opened here, as far as that is known without a key.
fn sealed(path: &std::path::Path) -> Finding {
    let file = match read(path).and_then(|file| admit(&file, path).map(|()| file)) {
        Ok(file) => file,
        Err(error) => return problem(error),
    };
    let header = &file.header;
    let detail = format!("{} was sealed {}", path.display(), time(&header.created));
    let days = (header.expires.as_second() - Timestamp::now().as_second()) / (24 * 60 * 60);
    if days < EXPIRY_WARNING_DAYS {
        let advice = "make a new one: `oci-secrets break-glass seal`".to_owned();
        return Finding::warning(SUBJECT, format!("{detail}, and expires in {days} days"), advice);
    }
    Finding::ok(SUBJECT, format!("{detail}, and is valid until {}", time(&header.expires)))
}

fn open() -> Option<Finding> {
    match Emergency::current() {
        Err(error) => Some(problem(error.into())),
        Ok(emergency) => emergency.map(|emergency| {
            let account = emergency.account();
            let (until, reason) = (time(&account.until), Excerpt(&account.reason));
            let detail = format!("emergency {} is open until {until}: {reason}", account.id);
            Finding::warning(SUBJECT, detail, "`oci-secrets break-glass close` ends it".to_owned())
        }),
    }
}

fn pending(settings: &Settings) -> Option<Finding> {
    let ledger = match Ledger::read(&settings.break_glass.directory) {
        Ok(ledger) => ledger,
        Err(error) => return Some(problem(error.into())),
    };
    let now = Timestamp::now();
    let (overdue, pending): (Vec<_>, Vec<_>) = ledger.pending.iter().partition(|(_, pending)| pending.is_overdue(now));
    let advice =
        "rotate them in 1Password; `oci-secrets break-glass status` lists them with their due dates".to_owned();
    match (overdue.len(), pending.len()) {
        (0, 0) => None,
        (0, pending) => Some(Finding::warning(SUBJECT, format!("secrets that must be rotated: {pending}"), advice)),
        (overdue, _) if settings.break_glass.rotation.then == Overdue::Warn => {
            let detail = format!("secrets with an overdue rotation: {overdue}");
            Some(Finding::warning(SUBJECT, detail, advice))
        }
        (overdue, _) => {
            let detail = format!("secrets with an overdue rotation, which are refused: {overdue}");
            Some(Finding::problem_with(Class::NotPermitted, SUBJECT, detail, advice))
        }
    }
}

fn problem(error: BreakGlassError) -> Finding {
    Finding::problem(SUBJECT, &error)
}

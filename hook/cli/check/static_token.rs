//! Whether a static token is used within the conditions of `[static-token]`.

use crate::cli::finding::Finding;
use crate::settings::{Settings, StaticToken};
use crate::source::Source;
use crate::token::static_token::{Anomaly, Outlook, outlook, token_age};

const SUBJECT: &str = "static-token";

/// Whether a start at this moment would meet the conditions, if the source uses a static token. One that is too old is reported where
/// the source is opened.
pub(super) fn conditions(settings: &Settings, source: &dyn Source) -> Vec<Finding> {
    let Some(shown) = source.static_token() else { return Vec::new() };
    let origin = &shown.origin;
    let Some(conditions) = &settings.static_token else {
        let detail = format!(
            "the token of {origin} is static: [static-token] limits its age with max-age, and records unexpected uses with \
             addresses, schedule and rate"
        );
        return vec![Finding::note(SUBJECT, detail)];
    };
    let mut findings = Vec::new();
    let age = shown.made.map(|made| token_age::rounded(token_age::age(made))).unwrap_or_default();
    if let Some(max) = conditions.max_age.and_then(|max| max.try_into().ok()).map(token_age::rounded) {
        let detail = format!("the token of {origin} is {age} old, expected at most {max}");
        findings.push(Finding::ok(SUBJECT, detail));
    }
    let expected = |outlook: Outlook| match outlook {
        Ok(detail) => Finding::ok(SUBJECT, detail),
        Err(anomaly) => Finding::warning(SUBJECT, anomaly.to_string(), advice(&anomaly)),
    };
    findings.extend(outlook(&shown, conditions).into_iter().map(expected));
    findings.extend(lacking(conditions));
    findings
}

fn advice(anomaly: &Anomaly) -> String {
    let advice = match anomaly {
        Anomaly::Schedule { .. } => {
            "starts are marked until then, unless `schedule` under [static-token] has this time, too"
        }
        Anomaly::Address { .. } => {
            "give this host an address that is pinned, or pin this one and add it to `addresses` under [static-token]"
        }
        Anomaly::Rate { .. } => "look for what starts so many containers, or change `rate` under [static-token]",
        Anomaly::Uncounted { .. } => {
            "root of the host counts them: chmod 0700 /run/oci-secrets, or remove a file that is damaged"
        }
    };
    advice.to_owned()
}

/// The conditions that there are not.
fn lacking(conditions: &StaticToken) -> Option<Finding> {
    let all = [
        ("max-age", conditions.max_age.is_some()),
        ("addresses", !conditions.addresses.is_empty()),
        ("schedule", !conditions.schedule.is_empty()),
        ("rate", conditions.rate.is_some()),
    ];
    let lacking: Vec<&str> = all.iter().filter(|(_, is_there)| !is_there).map(|(key, _)| *key).collect();
    (!lacking.is_empty()).then(|| Finding::note(SUBJECT, format!("nothing is said of {}", lacking.join(", "))))
}

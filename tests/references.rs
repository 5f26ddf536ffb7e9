//! References, compared with 1Password's validator.
//!
//! `references.json` has the results of the 1Password SDKs for Python (0.4.2) and JavaScript (0.5.0), which agree. The parser never
//! accepts a reference that they refuse. If it refuses one that they accept, `tightened` is the error message.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use oci_secrets::reference::Reference;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    reference: String,
    sdk: Answer,
    tightened: Option<String>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Accepts,
    Refuses,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("references.json")).unwrap()
}

#[test]
fn accepts_what_the_sdks_accept_unless_tightened() {
    for Case { reference, tightened, .. } in cases().into_iter().filter(|case| case.sdk == Answer::Accepts) {
        let refusal = reference.parse::<Reference>().err().map(|error| error.to_string());
        assert_eq!(refusal, tightened, "{reference:?}");
    }
}

#[test]
fn refuses_what_the_sdks_refuse() {
    for Case { reference, tightened, .. } in cases().into_iter().filter(|case| case.sdk == Answer::Refuses) {
        assert!(reference.parse::<Reference>().is_err(), "{reference:?}");
        assert_eq!(tightened, None, "{reference:?}: the SDKs also refuse it");
    }
}

#[test]
fn prints_a_reference_as_it_was_parsed() {
    for Case { reference, .. } in cases() {
        if let Ok(parsed) = reference.parse::<Reference>() {
            assert_eq!(parsed.to_string(), reference.replace("=totp", "=otp"));
        }
    }
}

//! The 1Password CLI, whose requests 1Password limits.

use std::fs;
use std::path::Path;

use oci_secrets::broker::source::{BreakerState, Shared};
use oci_secrets::fault::{Class, Fault as _};
use oci_secrets::source::SourceError;
use serde_json::json;

use super::support::with_mode;
use super::{CANARY, DB, Site, class, fetch, fetch_all, metric, sealed, value};

const MAIL: &str = "op://AgentVault/mail/password";

/// A site whose settings have `[op]`, with the stand-in for the program.
struct OpSite(Site);

impl OpSite {
    fn new() -> OpSite {
        let site = Site::new();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/op");
        with_mode(&site.path("op"), &fs::read(program).unwrap(), 0o755);
        let setup = json!({ "connect": site.stand_in.connect(), "token": site.stand_in.token() });
        with_mode(&site.path("op.json"), setup.to_string().as_bytes(), 0o600);
        with_mode(&site.path("op-token"), b"ops_canary-service-account", 0o600);
        OpSite(site)
    }

    fn open(&self, broker: &str) -> Shared {
        let (program, token, sealed) = (self.0.path("op"), self.0.path("op-token"), self.0.path("sealed"));
        let op = format!("[op]\nprogram = {program:?}\nservice-account-token-file = {token:?}\n");
        let outage = format!("[outage]\nsealed-values-for = '1h'\ndirectory = {sealed:?}\n");
        Shared::open(&format!("{op}[broker]\n{broker}\n{outage}").parse().unwrap()).unwrap()
    }

    /// The runs so far: the words and the number of references.
    fn runs(&self) -> Vec<String> {
        fs::read_to_string(self.0.path("op.calls")).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

#[test]
fn starts_at_the_same_time_share_a_run_and_those_within_a_minute_its_values() {
    let site = OpSite::new();
    site.0.store("db", &sealed(1));
    let plain = site.0.store("mail", &format!("{CANARY}-mail"));
    let shared = site.open("");
    assert!(
        fetch_all(&shared, &[DB; 20]).iter().all(|outcome| outcome.as_ref().is_ok_and(|f| **f.value == *sealed(1)))
    );
    assert_eq!(site.runs(), ["inject 1"]);
    assert_eq!((value(&shared, DB), site.runs().len()), (sealed(1), 1), "max-age is 60 s");
    assert_eq!((shared.snapshot().requests, shared.snapshot().requests_per_hour), (3, Some(900)));
    // A value that is not sealed is not kept.
    assert_eq!(
        (value(&shared, MAIL), value(&shared, MAIL), site.runs().len()),
        (format!("{CANARY}-mail"), format!("{CANARY}-mail"), 3)
    );
    site.0.delete(&plain);
    assert_eq!(class(&shared, MAIL), Class::NotFound);
    let runs = site.runs().len();
    assert_eq!((class(&shared, MAIL), site.runs().len()), (Class::NotFound, runs), "within the second");
}

#[test]
fn a_crash_loop_does_not_use_up_the_hourly_limit() {
    let site = OpSite::new();
    site.0.store("db", &sealed(1));
    let shared = site.open("max-age = '0s'\nrequests-per-hour = 10");
    let outcomes: Vec<_> = (0..30).map(|_| fetch(&shared, DB)).collect();
    assert_eq!((site.runs().len(), outcomes.iter().filter(|outcome| outcome.is_ok()).count()), (4, 4));
    let error = outcomes[29].as_ref().err().unwrap();
    assert!(matches!(error, SourceError::OverBudget { limit: 10, .. }) && error.class() == Class::Unavailable);
    assert!(error.hint().unwrap().contains("max-age"));
    assert_eq!(metric(&shared, "source_over_budget"), 26);
    assert_eq!(metric(&shared, "source_outage_values"), 0, "our own limit is no outage");
}

#[test]
fn its_outages_are_bridged_and_its_refusals_are_not() {
    let site = OpSite::new();
    site.0.store("db", &sealed(1));
    let before = site.open("");
    assert_eq!(value(&before, DB), sealed(1));
    site.0.stored(1);
    let says = |text: &str| {
        let script = format!("#!/bin/sh\ncat >/dev/null\necho '[ERROR] 2026/02/04 10:11:12 {text}' >&2\nexit 1\n");
        with_mode(&site.0.path("op"), script.as_bytes(), 0o755);
        site.open("max-age = '0s'")
    };
    for outage in ["(503) Service Unavailable", "dial tcp: connection refused", "(429) Too Many Requests"] {
        let shared = says(outage);
        assert!(fetch(&shared, DB).unwrap().earlier.unwrap().outage, "{outage}");
        assert_eq!(shared.snapshot().breaker, BreakerState::Closed { failures: 1 }, "{outage}");
    }
    assert_eq!(class(&says("the moon is full"), DB), Class::Unavailable, "it may be a refusal");
    site.0.stored(1);
    assert_eq!(class(&says("(401) Unauthorized"), DB), Class::NotPermitted);
    site.0.stored(0);
    assert_eq!(class(&says("(503) Service Unavailable"), DB), Class::Unavailable);
}

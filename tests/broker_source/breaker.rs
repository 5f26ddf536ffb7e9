//! A source that does not answer is given time.

use std::time::{Duration, Instant};

use oci_secrets::broker::source::{BreakerState, Shared};
use oci_secrets::fault::{Class, Fault as _};
use oci_secrets::source::SourceError;

use super::support::front::Mode;
use super::{DB, Site, class, fetch, fetch_all, metric, sealed, value};

/// The longest pause before the first probe.
const PAUSE: Duration = Duration::from_millis(1500);

/// How many failures in a row open the breaker.
const FAILURES: usize = 3;

fn open_breaker(site: &Site, shared: &Shared) {
    site.front.set(Mode::Status("503 Service Unavailable"));
    for _ in 0..FAILURES {
        assert!(!fetch(shared, DB).err().unwrap().to_string().contains("after repeated failures"));
    }
}

#[test]
fn opens_after_repeated_failures_and_one_probe_closes_it() {
    let site = Site::new();
    site.store("db", &sealed(1));
    site.store("mail", &sealed(2));
    let shared = site.open();
    assert_eq!(value(&shared, DB), sealed(1));
    open_breaker(&site, &shared);
    let (connections, begin) = (site.front.connections(), Instant::now());
    let error = fetch(&shared, DB).err().unwrap();
    if begin.elapsed() < Duration::from_millis(300) {
        let expected = "answered 503 Service Unavailable (4 tries); after repeated failures it is asked again only every few seconds";
        assert!(error.to_string().ends_with(expected), "{error}");
        assert!(matches!(error, SourceError::Paused { .. }) && error.class() == Class::Unavailable);
        assert_eq!(site.front.connections(), connections, "nothing was asked");
        assert!(matches!(shared.snapshot().breaker, BreakerState::Open { .. }));
        assert!(metric(&shared, "source_paused") >= 1);
    }
    assert_eq!(metric(&shared, "source_breaker_opened"), 1);

    site.front.set(Mode::Forward);
    std::thread::sleep(PAUSE);
    // Of the starts of one moment one is the probe; the others are not kept waiting for it.
    let outcomes = fetch_all(&shared, &[DB, "op://AgentVault/mail/password"]);
    assert!(outcomes.iter().any(Result::is_ok));
    assert_eq!(metric(&shared, "source_probes"), 1);
    assert!(fetch_all(&shared, &[DB, "op://AgentVault/mail/password"]).iter().all(Result::is_ok));
    assert_eq!(shared.snapshot().breaker, BreakerState::Closed { failures: 0 });
    assert_eq!(metric(&shared, "source_breaker_open"), 0);
}

#[test]
fn a_probe_that_fails_leaves_it_open() {
    let site = Site::new();
    let shared = site.open();
    open_breaker(&site, &shared);
    std::thread::sleep(PAUSE);
    assert_eq!(class(&shared, DB), Class::Unavailable);
    assert_eq!(metric(&shared, "source_probes"), 1);
    assert!(matches!(shared.snapshot().breaker, BreakerState::Open { .. }));
}

#[test]
fn a_refusal_is_an_answer() {
    let site = Site::new();
    let shared = site.open();
    for number in 0..2 * FAILURES {
        assert_eq!(class(&shared, &format!("op://AgentVault/absent-{number}/password")), Class::NotFound);
    }
    assert_eq!(shared.snapshot().breaker, BreakerState::Closed { failures: 0 });
    assert_eq!(metric(&shared, "source_failures"), 0);
}

#[test]
fn connects_anew_after_a_failure() {
    let site = Site::new();
    site.store("db", &sealed(1));
    let shared = site.open();
    assert_eq!((value(&shared, DB), value(&shared, DB)), (sealed(1), sealed(1)));
    assert_eq!(site.front.connections(), 1, "connections stay open between starts");
    site.front.set(Mode::Status("500 Internal Server Error"));
    assert_eq!(class(&shared, DB), Class::Unavailable);
    site.front.set(Mode::Forward);
    let before = site.front.connections();
    assert_eq!(site.cost(|| assert_eq!(value(&shared, DB), sealed(1))), 1, "ids are kept");
    assert_eq!((site.front.connections() - before, metric(&shared, "source_reconnects")), (1, 1));
}

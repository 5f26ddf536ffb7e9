//! What is not asked for again: absences for a second, values for `max-age`, and nothing beyond the budget.

use std::time::{Duration, Instant};

use oci_secrets::broker::source::{BreakerState, Payer};
use oci_secrets::fault::{Class, Fault as _};
use oci_secrets::source::{Source as _, SourceError};

use super::{CANARY, DB, Site, class, fetch, fetch_all, metric, sealed, value};

#[test]
fn an_absence_is_remembered_for_a_second() {
    let site = Site::new();
    site.store("db", &sealed(1));
    let shared = site.open();
    for (missing, cost) in
        [("op://Nowhere/db/password", 1), ("op://AgentVault/absent/password", 2), ("op://AgentVault/db/absent", 2)]
    {
        assert_eq!(site.cost(|| assert_eq!(class(&shared, missing), Class::NotFound)), cost, "{missing}");
        let begin = Instant::now();
        let again = site.cost(|| assert_eq!(class(&shared, missing), Class::NotFound));
        assert!(again == 0 || begin.elapsed() > Duration::from_millis(500), "{missing}: {again} requests");
    }
    assert!(metric(&shared, "source_missing") >= 1);
    std::thread::sleep(Duration::from_millis(1100));
    site.store("absent", &sealed(2));
    assert_eq!(value(&shared, "op://AgentVault/absent/password"), sealed(2));
}

#[test]
fn a_refused_token_is_asked_about_each_time_and_a_new_one_is_used_at_once() {
    let site = Site::new();
    site.store("db", &sealed(1));
    site.write_token("e30.e30.e30");
    let shared = site.open();
    for _ in 0..2 {
        assert_eq!(site.cost(|| assert_eq!(class(&shared, DB), Class::NotPermitted)), 1);
    }
    site.write_token(site.stand_in.token());
    assert_eq!(value(&shared, DB), sealed(1));
    assert_eq!(metric(&shared, "source_reconnects"), 1);
    assert!(shared.static_token().is_some());
}

#[test]
fn a_sealed_value_is_used_for_max_age_and_a_plain_one_is_not() {
    let site = Site::new();
    let id = site.stand_in.create_item(
        super::AGENT_VAULT,
        "db",
        &[("", "password", &sealed(1)), ("", "plain", &format!("{CANARY}-plain"))],
    );
    let shared = site.open_with("max-age = '1h'");
    assert!(fetch(&shared.for_start("first"), DB).unwrap().earlier.is_none());
    let again = site.cost(|| {
        let field = fetch(&shared, DB).unwrap();
        assert_eq!((&**field.value, field.earlier.unwrap().start.as_deref()), (&*sealed(1), Some("first")));
    });
    assert_eq!((again, metric(&shared, "source_fresh"), shared.snapshot().fresh), (0, 1, 1));
    for _ in 0..2 {
        assert_eq!(site.cost(|| assert!(fetch(&shared, "op://AgentVault/db/plain").is_ok())), 1);
    }
    site.change(&id, &sealed(2));
    assert_eq!(value(&shared, DB), sealed(1));
    shared.reload(&site.settings("max-age = '0s'", "")).unwrap();
    assert_eq!(value(&shared, DB), sealed(2), "a reload shortens the age");
}

#[test]
fn the_budget_refuses_before_the_source_is_asked() {
    let site = Site::new();
    site.store("db", &sealed(1));
    let shared = site.open_with("requests-per-hour = 4");
    assert_eq!(site.cost(|| assert_eq!((value(&shared, DB), value(&shared, DB)), (sealed(1), sealed(1)))), 4);
    let refused = site.cost(|| {
        let error = fetch(&shared, DB).err().unwrap();
        assert!(matches!(error, SourceError::OverBudget { limit: 4, .. }), "{error}");
        assert_eq!(error.class(), Class::Unavailable);
        assert_eq!(
            error.to_string(),
            format!("refusing to ask {} again: `requests-per-hour` under [broker] allows 4", site.front.url())
        );
    });
    assert_eq!((refused, metric(&shared, "source_over_budget"), metric(&shared, "source_requests")), (0, 1, 4));
    let snapshot = shared.snapshot();
    assert_eq!((snapshot.requests, snapshot.requests_per_hour), (4, Some(4)));
    assert_eq!(snapshot.breaker, BreakerState::Closed { failures: 0 });
    shared.reload(&site.settings("requests-per-hour = 5", "")).unwrap();
    assert_eq!(value(&shared, DB), sealed(1));
}

#[test]
fn a_user_spends_no_more_than_a_share_of_the_budget() {
    let site = Site::new();
    site.store("db", &sealed(1));
    let shared = site.open_with("requests-per-hour = 30");
    let of = |uid| shared.for_start("0123456789abcdef").paid_by(Some(Payer { uid, parts: 3 }));
    let (alice, bob) = (of(1001), of(1002));
    // An item counts as three requests, however many it costs.
    (0..4).for_each(|_| assert_eq!(value(&alice, DB), sealed(1)));
    assert_eq!(metric(&shared, "source_requests"), 6);
    let refused = site.cost(|| {
        let error = fetch(&alice, DB).err().unwrap();
        let expected =
            "refusing to ask 1Password again for uid 1001: its share of `requests-per-hour` under [broker] is 10 of 30";
        assert_eq!((error.to_string().as_str(), error.class()), (expected, Class::Unavailable));
    });
    assert_eq!((refused, metric(&shared, "source_over_budget")), (0, 1));
    assert_eq!((value(&bob, DB), value(&shared, DB)), (sealed(1), sealed(1)));
    // What others have fetched costs nothing.
    shared.reload(&site.settings("requests-per-hour = 30\nmax-age = '1h'", "")).unwrap();
    assert_eq!((value(&shared, DB), value(&alice, DB)), (sealed(1), sealed(1)));
    // Without a limit there are no shares.
    shared.reload(&site.settings("", "")).unwrap();
    assert_eq!(value(&alice, DB), sealed(1));
}

#[test]
fn reloading_keeps_ids_and_connections_of_the_same_source() {
    let site = Site::new();
    site.store("db", &sealed(1));
    let shared = site.open();
    assert_eq!(value(&shared, DB), sealed(1));
    shared.reload(&site.settings("", "")).unwrap();
    assert_eq!(site.cost(|| assert_eq!(value(&shared, DB), sealed(1))), 1);
    let broken = "[connect]\nurl = 'http://127.0.0.1:9'\ntoken-file = '/nowhere'".parse().unwrap();
    assert!(shared.reload(&broken).is_err());
    assert!(fetch_all(&shared, &[DB; 3]).iter().all(Result::is_ok), "the settings from before are used");
}

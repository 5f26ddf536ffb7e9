//! What updates of running containers share that began at the same time, and what will not do for them.

use std::time::Duration;

use futures_util::future::join;
use oci_secrets::broker::source::{Fetches, Shared};
use oci_secrets::fault::{Class, Fault as _};
use tokio::time::sleep;

use super::support::front::Mode;
use super::{DB, PATIENCE, Site, block_on, class, fetch, fetch_within, sealed, value};

/// An item that is answered after a while.
const SLOW: &str = "op://Faults/slow-500/password";

#[test]
fn an_item_is_fetched_once_for_updates_that_began_together_and_again_for_those_that_began_later() {
    let site = Site::new();
    let id = site.store("db", &sealed(1));
    let shared = site.open_with("max-age = '1h'");
    assert_eq!(value(&shared, DB), sealed(1));
    site.change(&id, &sealed(2));
    assert_eq!(value(&shared, DB), sealed(1), "it is remembered for starts");
    let fetches = Fetches::begin();
    let update = |number: u32| shared.for_update(&format!("update-{number}"), &fetches);
    let cost = site.cost(|| (0..20).for_each(|number| assert_eq!(value(&update(number), DB), sealed(2))));
    assert_eq!(cost, 1, "{:?}", site.requests());
    let earlier = fetch(&update(20), DB).unwrap().earlier.unwrap();
    assert_eq!((earlier.start.as_deref(), earlier.outage), (Some("update-0"), false));
    // A change of the item during the updates is for the next ones.
    site.change(&id, &sealed(3));
    assert_eq!(value(&update(21), DB), sealed(2));
    assert_eq!(value(&shared.for_update("next", &Fetches::begin()), DB), sealed(3));
    // What is shared with a late one does not replace what is newer.
    assert_eq!(value(&update(22), DB), sealed(2));
    assert_eq!(value(&shared, DB), sealed(3));
}

#[test]
fn what_was_asked_for_before_the_updates_began_will_not_do() {
    let site = Site::new();
    let shared = site.open();
    let start = |shared: Shared| async move { fetch_within(&shared, SLOW, PATIENCE).await };
    let [(before, update), (also_before, start)] = block_on(async {
        let begin_late = async |fetcher: &dyn Fn() -> Shared| {
            sleep(Duration::from_millis(200)).await;
            start(fetcher()).await
        };
        let of_update = || shared.for_update("update", &Fetches::begin());
        let first = join(start(shared.for_start("first")), begin_late(&of_update)).await;
        let second = join(start(shared.for_start("second")), begin_late(&|| shared.for_start("third"))).await;
        [first, second]
    });
    assert!(before.is_ok() && update.unwrap().earlier.is_none(), "an update shares an earlier request");
    assert!(also_before.is_ok() && start.unwrap().earlier.is_some(), "a start would");
}

#[test]
fn a_refusal_is_shared_and_an_outage_is_not() {
    let site = Site::new();
    site.store("db", &sealed(1));
    let shared = site.open();
    let fetches = Fetches::begin();
    let update = || shared.for_update("update", &fetches);
    let absent = "op://AgentVault/absent/password";
    assert_eq!(class(&update(), absent), Class::NotFound);
    let cost = site.cost(|| (0..5).for_each(|_| assert_eq!(class(&update(), absent), Class::NotFound)));
    assert_eq!(cost, 0, "{:?}", site.requests());
    site.front.set(Mode::Close);
    let refused = block_on(fetch_within(&update(), DB, Duration::from_millis(300)));
    assert_eq!(refused.err().unwrap().class(), Class::Unavailable);
    site.front.set(Mode::Forward);
    assert_eq!(value(&update(), DB), sealed(1));
}

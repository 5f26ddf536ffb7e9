//! One request answers all starts that want the same.

use std::time::{Duration, Instant};

use futures_util::future::{join, select};
use tokio::time::sleep;

use super::support::front::Mode;
use super::{DB, PATIENCE, Site, block_on, class, fetch_all, fetch_within, metric, sealed, value};
use oci_secrets::fault::{Class, Fault as _};

/// An item that is answered after a while, so that all starts are there before.
const SLOW: &str = "op://Faults/slow-500/password";

#[test]
fn a_hundred_starts_at_the_same_time_cause_one_fetch() {
    let site = Site::new();
    let shared = site.open();
    let mut outcomes = Vec::new();
    let cost = site.cost(|| outcomes = fetch_all(&shared, &[SLOW; 100]));
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_ok_and(|field| **field.value == *"canary-fault-value")));
    assert_eq!(cost, 3, "the vault, the title, the item: {:?}", site.requests());
    assert_eq!((metric(&shared, "source_coalesced"), metric(&shared, "source_requests")), (99, 3));
    let own = outcomes.iter().filter(|outcome| outcome.as_ref().is_ok_and(|field| field.earlier.is_none())).count();
    assert_eq!(own, 1, "the others name the start that fetched");
    let earlier = outcomes[99].as_ref().unwrap().earlier.clone().unwrap();
    assert_eq!((earlier.start.as_deref(), earlier.outage), (Some("start-0"), false));
    let agents = site.stand_in.requests();
    assert!(
        agents
            .iter()
            .filter_map(|request| request["user_agent"].as_str())
            .any(|agent| agent.ends_with("(start start-0)"))
    );
}

#[test]
fn the_fields_of_one_item_are_one_request_and_its_vault_is_looked_up_once() {
    let site = Site::new();
    let fields = [("", "password", "a"), ("", "user", "b"), ("prod", "password", "c")];
    for title in ["one", "two", "three"] {
        site.stand_in.create_item(super::AGENT_VAULT, title, &fields);
    }
    let shared = site.open();
    let references = ["one", "two", "three"]
        .map(|item| ["user", "prod/password"].map(|field| format!("op://AgentVault/{item}/{field}")));
    let references: Vec<&str> = references.iter().flatten().map(String::as_str).collect();
    let cost = site.cost(|| assert!(fetch_all(&shared, &references).iter().all(Result::is_ok)));
    assert_eq!(cost, 1 + 3 + 3, "{:?}", site.requests());
}

#[test]
fn the_content_of_a_file_is_fetched_once() {
    let site = Site::new();
    let shared = site.open();
    let file = "op://Shapes/files/text.txt";
    assert_eq!(value(&shared, file), "The content of a text file.\n");
    let cost = site.cost(|| assert!(fetch_all(&shared, &[file; 20]).iter().all(Result::is_ok)));
    assert_eq!(cost, 2, "the item and the file: {:?}", site.requests());
}

#[test]
fn a_start_that_ends_does_not_end_the_request_of_the_others() {
    let site = Site::new();
    let shared = site.open();
    let (first, second) = (shared.for_start("first"), shared.for_start("second"));
    let outcome = block_on(async {
        let leader = Box::pin(fetch_within(&first, SLOW, PATIENCE));
        let dies = Box::pin(sleep(Duration::from_millis(100)));
        let follower = async {
            sleep(Duration::from_millis(20)).await;
            fetch_within(&second, SLOW, PATIENCE).await
        };
        join(select(leader, dies), follower).await.1
    });
    let field = outcome.unwrap();
    assert_eq!(field.earlier.unwrap().start.as_deref(), Some("first"));
    assert_eq!(site.requests().len(), 3);
}

#[test]
fn each_start_has_its_own_deadline() {
    let site = Site::new();
    let shared = site.open();
    site.front.set(Mode::Silent);
    let begin = Instant::now();
    let (long, short) = block_on(join(
        fetch_within(&shared, DB, Duration::from_secs(4)),
        fetch_within(&shared, DB, Duration::from_millis(300)),
    ));
    assert!(begin.elapsed() >= Duration::from_secs(4));
    assert!(short.err().unwrap().to_string().contains("did not answer within 0.3 s"));
    assert_eq!(long.err().unwrap().class(), Class::Unavailable);
}

#[test]
fn a_start_with_time_left_does_not_share_the_failure_of_one_without() {
    let site = Site::new();
    let shared = site.open();
    // The first request fails at its deadline, before the answer is there.
    let (hurried, patient) =
        block_on(join(fetch_within(&shared, SLOW, Duration::from_millis(200)), fetch_within(&shared, SLOW, PATIENCE)));
    assert_eq!(hurried.err().unwrap().class(), Class::Unavailable);
    assert_eq!(&**patient.unwrap().value, "canary-fault-value");
}

#[test]
fn what_ended_is_fetched_again() {
    let site = Site::new();
    let id = site.store("db", &sealed(1));
    let shared = site.open();
    assert_eq!(value(&shared, DB), sealed(1));
    site.change(&id, &sealed(2));
    assert_eq!(value(&shared, DB), sealed(2), "max-age is 0 s for Connect");
    assert_eq!(class(&shared, "op://AgentVault/absent/password"), Class::NotFound);
}

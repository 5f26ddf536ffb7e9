//! What the hook prints if the broker does not ask 1Password: after repeated failures, and when the budget is spent.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::broker::Broker;
use crate::support::container::Container;
use crate::support::front::{Front, Mode};
use crate::world::{World, code_and_lines, state};

const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the settings reach Connect through a server that can fail, and end with these lines. Returns the server, and its address.
pub(crate) fn prepare(world: &World, more: &str) -> (Front, String) {
    let settings = fs::read_to_string(world.host.settings()).unwrap();
    let url = settings.lines().find_map(|line| line.strip_prefix("url = \"")?.strip_suffix('"')).unwrap();
    let front = Front::to(url);
    let address = front.url();
    world.host.write("settings.toml", (settings.replace(url, &address) + more).as_bytes(), 0o644);
    (front, address)
}

const REFUSED: &str =
    "oci-secrets-hook: error: container 4f2a9c1b77de: cannot resolve \"db\": op://AgentVault/db/password: ";

#[test]
fn an_open_circuit_breaker_is_reported_with_the_last_cause() {
    let Some(world) = World::begin() else { return };
    let (front, address) = prepare(&world, "");
    front.set(Mode::Status("503 Service Unavailable"));
    let broker = Broker::start(&world.host);
    let begin = Instant::now();
    let lines = loop {
        let (code, lines) = code_and_lines(&broker.hook(&state(&Container::create())));
        assert_eq!(code, 69, "{lines:?}");
        if lines[0].contains("after repeated failures") {
            break lines;
        }
        assert!(begin.elapsed() < PATIENCE, "{lines:?}");
    };
    let cause = format!("{REFUSED}{address} answered 503 Service Unavailable");
    let rest = "; after repeated failures it is asked again only every few seconds";
    assert!(lines.len() == 1 && lines[0].starts_with(&cause) && lines[0].ends_with(rest), "{lines:?}");
    let decisions = world.decisions();
    assert!(decisions.len() > 3 && decisions.iter().all(|decision| decision == "refused"), "{decisions:?}");
    // Once 1Password answers again, so does the broker.
    front.set(Mode::Forward);
    while broker.hook(&state(&Container::create())).status.code() != Some(0) {
        assert!(begin.elapsed() < PATIENCE, "the circuit breaker never closes");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_spent_budget_is_reported() {
    let Some(world) = World::begin() else { return };
    let (_front, address) = prepare(&world, "\n[broker]\nrequests-per-hour = 3\n");
    let broker = Broker::start(&world.host);
    let start = || code_and_lines(&broker.hook(&state(&Container::create())));
    assert_eq!(start(), (0, vec![]));
    let error = format!("{REFUSED}refusing to ask {address} again: `requests-per-hour` under [broker] allows 3");
    let hint = "oci-secrets-hook: hint: a longer `max-age` saves requests; raise `requests-per-hour` only if the account may have more";
    assert_eq!(start(), (69, vec![error, hint.to_owned()]));
    assert_eq!(world.decisions(), ["delivered", "refused"]);
}

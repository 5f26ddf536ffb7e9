//! Updates of running containers while an emergency is open.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::support::broker::Broker;
use super::support::container::Container;
use super::support::program;
use super::{CANARY, MAIL, Site, UNREACHABLE, succeeded};

const PATIENCE: Duration = Duration::from_secs(60);

fn start(broker: &Broker) -> (Container, i32) {
    let container = Container::create();
    let annotations = [("run.secrets/mail", MAIL), ("run.secrets.update", "live")];
    let state = container.state(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let code = broker.hook(&state).status.code().unwrap();
    (container, code)
}

/// A start does. An update would put an older value in the place of a newer one.
#[test]
fn an_update_gets_nothing_from_an_emergency() {
    let Some(site) = Site::new() else { return };
    let broker = Broker::start(&site.host);
    let (container, code) = start(&broker);
    assert_eq!(code, 0);
    succeeded(site.open("1h", &[]));
    site.connect_is(site.stand_in.connect(), UNREACHABLE);
    broker.signal(Signal::HUP);
    let uses = || site.kinds().iter().filter(|kind| *kind == "use").count();
    let begin = Instant::now();
    while uses() == 0 {
        assert!(begin.elapsed() < PATIENCE, "the emergency is not used by a start");
        assert_eq!(start(&broker).1, 0);
        sleep(Duration::from_millis(20));
    }
    let before = uses();
    let refresh = Command::new(program("oci-secrets"))
        .arg("--settings")
        .arg(broker.hook_settings())
        .args(["refresh", "--container", super::support::container::ID])
        .output()
        .unwrap();
    let text = String::from_utf8(refresh.stdout).unwrap();
    assert!(refresh.status.code() == Some(71) && text.contains("it keeps them: cannot resolve \"mail\""), "{text}");
    let last = site.last_start();
    assert_eq!((&last["decision"], &last["update"]["generation"]), (&"not-updated".into(), &1.into()), "{last}");
    assert_eq!(uses(), before);
    assert_eq!(container.secret("mail"), format!("{CANARY}-mail").into_bytes());
}

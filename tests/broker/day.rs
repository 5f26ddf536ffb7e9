//! A day of running containers, in periods of a second: rotations, outages, revocations, and brokers that are restarted and killed.
//!
//! `OCI_SECRETS_TEST_PERIODS` is the number of periods, 1440 for a day; `OCI_SECRETS_TEST_SEED` draws the same events again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::live::count_of;
use crate::scene::{ITEMS, Scene, target, wait_until};
use crate::support::broker::Broker;
use crate::support::container::Container;
use crate::support::front::{Front, Mode};
use crate::world::code_and_lines;

/// How many periods there are; the environment can ask for more, as it does for a release.
const PERIODS: u32 = 6;
const PERIOD: Duration = Duration::from_secs(1);
/// After so many of them everything works again, and is checked.
const HOUR: u32 = 60;

const CONTAINERS: usize = 4;

/// The longest wait for a start, which may need several attempts after an outage.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest outage, in periods.
const OUTAGE_MAX: u32 = 4;

/// The periods of one broker from which on its memory is compared, and by how much it may grow.
const COMPARED_MIN: usize = 120;
const GROWTH_MAX: f64 = 1.1;

/// What happens at the beginning of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Nothing,
    Rotate,
    ConnectAway,
    KmsAway,
    Restart,
    Kill,
    Replace,
    Reload,
    Revoke,
    EndRevocation,
    Exchange,
}

/// How often each is drawn.
const EVENTS: [(Event, usize); 11] = [
    (Event::Nothing, 5),
    (Event::Rotate, 10),
    (Event::ConnectAway, 1),
    (Event::KmsAway, 1),
    (Event::Restart, 1),
    (Event::Kill, 1),
    (Event::Replace, 1),
    (Event::Reload, 1),
    (Event::Revoke, 1),
    (Event::EndRevocation, 1),
    (Event::Exchange, 1),
];

struct Day {
    scene: Scene,
    connect: Front,
    kms: Front,
    random: fastrand::Rng,
    broker: Option<Broker>,
    /// Each with the newest number that it has had of each item.
    containers: Vec<(Container, [u32; 2])>,
    /// The number of the newest values.
    number: u32,
    /// Whether the first item is revoked, and whether containers may lack it.
    is_revoked: bool,
    is_version_known: bool,
    may_lack: bool,
    /// Periods until the servers are back.
    away: u32,
    happened: BTreeMap<Event, u32>,
    /// The memory of the broker that runs, in KiB, one for each period.
    memory: Vec<u64>,
}

#[test]
fn a_day_of_updates_leaves_the_newest_values_and_nothing_else() {
    let Some((scene, kms)) = Scene::with_kms() else { return };
    let connect = crate::outage::prepare(&scene.world);
    scene.settings("1s");
    let settings = fs::read_to_string(scene.world.host.settings()).unwrap();
    // No deadline of a busy machine may decide.
    let settings =
        settings.replace("[audit]", "[audit]\nchain = true").replace("deadline = \"2s\"", "deadline = \"10s\"");
    scene.world.host.write("settings.toml", settings.as_bytes(), 0o644);
    let seed = count_of("OCI_SECRETS_TEST_SEED", fastrand::u32(..));
    let periods = count_of("OCI_SECRETS_TEST_PERIODS", PERIODS);
    eprintln!("live updates: {periods} periods, OCI_SECRETS_TEST_SEED={seed}");
    let mut day = Day {
        broker: Some(Broker::start(&scene.world.host)),
        scene,
        connect,
        kms,
        random: fastrand::Rng::with_seed(seed.into()),
        containers: Vec::new(),
        number: 0,
        is_revoked: false,
        is_version_known: true,
        may_lack: false,
        away: 0,
        happened: BTreeMap::new(),
        memory: Vec::new(),
    };
    (0..CONTAINERS).for_each(|_| day.start());
    for period in 1..=periods {
        let begin = Instant::now();
        // The broker of the second half runs to its end, so that its memory shows whether it grows.
        day.draw(period <= periods / 2);
        day.look();
        std::thread::sleep(PERIOD.saturating_sub(begin.elapsed()));
        day.look();
        day.memory.push(resident(day.broker().pid()));
        if period.is_multiple_of(HOUR) || period == periods {
            day.everything_works_again();
            eprintln!("live updates: {period} of {periods} periods, {} values", day.number + 1);
        }
    }
    day.end();
}

impl Day {
    fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    /// Starts one more container. After an outage it may get what was stored before.
    fn start(&mut self) {
        let container = Container::create();
        let state = self.scene.state(&container, &[]);
        let begin = Instant::now();
        loop {
            let (code, lines) = code_and_lines(&self.broker().hook(&state));
            if code == 0 {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{code}: {lines:?}");
        }
        self.containers.push((container, [0; 2]));
    }

    fn draw(&mut self, may_restart: bool) {
        if self.away > 0 {
            self.away -= 1;
            if self.away == 0 {
                self.end_outage();
            }
        }
        let events: Vec<Event> = EVENTS.iter().flat_map(|(event, count)| std::iter::repeat_n(*event, *count)).collect();
        let event = self.random.choice(events).unwrap();
        let needs_servers =
            !matches!(event, Event::Nothing | Event::Restart | Event::Kill | Event::Replace | Event::Reload);
        let restarts = matches!(event, Event::Restart | Event::Kill | Event::Replace);
        if (needs_servers && self.away > 0) || (restarts && !may_restart) {
            return;
        }
        match event {
            Event::Nothing => {}
            Event::Rotate => self.rotate(),
            Event::ConnectAway | Event::KmsAway => self.begin_outage(event),
            Event::Restart => {
                assert!(self.broker.take().unwrap().terminate().success());
                self.start_broker();
            }
            Event::Kill => {
                self.broker().signal(Signal::KILL);
                self.broker = None;
                self.start_broker();
            }
            Event::Replace => {
                let new = self.broker().replaced(self.scene.world.host.settings());
                let old = self.broker.replace(new).unwrap();
                assert!(old.terminate().success());
                self.memory.clear();
            }
            Event::Reload => self.broker().signal(Signal::HUP),
            Event::Revoke => self.revoke(),
            Event::EndRevocation if self.is_revoked => self.end_revocation(),
            // What is revoked does not start.
            Event::Exchange if !self.is_revoked => {
                self.containers.remove(0);
                self.start();
            }
            Event::EndRevocation | Event::Exchange => return,
        }
        *self.happened.entry(event).or_default() += 1;
    }

    fn start_broker(&mut self) {
        self.broker = Some(Broker::start(&self.scene.world.host));
        self.memory.clear();
    }

    /// A newer version ends a revocation, unless it is not known which version was revoked.
    fn rotate(&mut self) {
        self.number += 1;
        self.scene.rotate(self.number);
        match self.is_version_known {
            true => self.is_revoked = false,
            false if self.is_revoked => self.end_revocation(),
            false => {}
        }
    }

    fn end_revocation(&mut self) {
        let (code, text) = self.scene.command(self.broker(), &["revoke", "--end", &reference()]);
        assert_eq!(code, 0, "{text}");
        self.is_revoked = false;
    }

    fn begin_outage(&mut self, event: Event) {
        // What is to be resolved meanwhile.
        self.rotate();
        let mode = self.random.choice([Mode::Close, Mode::Silent, Mode::Status("503 Service Unavailable")]).unwrap();
        let server = if event == Event::KmsAway { &self.kms } else { &self.connect };
        server.set(mode);
        self.away = self.random.u32(1..=OUTAGE_MAX);
    }

    fn end_outage(&mut self) {
        self.away = 0;
        self.connect.set(Mode::Forward);
        self.kms.set(Mode::Forward);
    }

    fn revoke(&mut self) {
        let (_, text) = self.scene.command(self.broker(), &["revoke", "--reason", "a day", &reference()]);
        self.is_version_known = text.contains("until the item has a version after ");
        for (container, _) in &self.containers {
            assert!(!target(container).join(ITEMS[0]).exists(), "{text}");
        }
        (self.is_revoked, self.may_lack) = (true, true);
    }

    /// Each file is whole, and none is older than one before it. Only what was revoked can be missing.
    fn look(&mut self) {
        for (container, newest) in &mut self.containers {
            for (at, item) in ITEMS.into_iter().enumerate() {
                let Ok(text) = fs::read_to_string(target(container).join(item)) else {
                    assert!(at == 0 && self.may_lack, "{item} is missing");
                    continue;
                };
                let number = text.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(u32::MAX);
                assert_eq!(text, self.scene.secret(number), "part of a file");
                let known = newest[at]..=self.number;
                assert!(known.contains(&number), "{item}: {number}, expected one of {known:?}");
                newest[at] = number;
            }
        }
    }

    /// Ends what is wrong, and waits until all containers have the newest values. Then nothing else may be there.
    fn everything_works_again(&mut self) {
        self.end_outage();
        self.rotate();
        let newest = [self.scene.secret(self.number), self.scene.secret(self.number)];
        let has_newest = |container: &Container| {
            let files = ITEMS.map(|item| fs::read_to_string(target(container).join(item)).unwrap_or_default());
            files == newest
        };
        wait_until("the newest values", || self.containers.iter().all(|(container, _)| has_newest(container)));
        self.may_lack = false;
        self.look();
        wait_until("the end of other states", || self.scene.states() == self.containers.len());
        for (container, _) in &self.containers {
            let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).unwrap();
            assert_eq!(mounts.matches(" oci-secrets ").count(), 1, "{mounts}");
        }
        wait_until("the end of earlier files", || held(self.broker().pid()) == self.containers.len());
    }

    fn end(mut self) {
        let memory = std::mem::take(&mut self.memory);
        let (first, second) = memory.split_at(memory.len() / 2);
        let most = |part: &[u64]| part.iter().max().copied().unwrap_or_default();
        let [first, second] = [most(first), most(second)];
        let text = format!("memory of a broker for {} periods: at most {first} KiB, then {second} KiB", memory.len());
        let has_grown = second as f64 > first as f64 * GROWTH_MAX;
        assert!(memory.len() < COMPARED_MIN || !has_grown, "{text}");

        let records = self.scene.world.records();
        let mut twice = 0;
        let mut generations = BTreeSet::new();
        let mut counts = BTreeMap::<String, u32>::new();
        for record in &records {
            let decision = record["decision"].as_str().unwrap_or_default();
            *counts.entry(decision.to_owned()).or_default() += 1;
            if matches!(decision, "updated" | "withdrawn") {
                let update = &record["update"];
                let generation = (update["of"].to_string(), update["generation"].as_u64());
                twice += u32::from(!generations.insert(generation));
            }
        }
        // A broker that is killed can leave the record of an update that it has not made.
        let killed = self.happened.get(&Event::Kill).copied().unwrap_or_default() * CONTAINERS as u32;
        assert!(twice <= killed, "{twice} generations have two records");
        let verified = self.scene.world.host.oci_secrets(&["audit", "verify"], b"");
        assert!(verified.status.success(), "{verified:?}");

        self.containers.clear();
        wait_until("the end of all states", || self.scene.states() == 0);
        wait_until("the end of all files", || held(self.broker().pid()) == 0);
        assert!(self.broker.take().unwrap().terminate().success());
        eprintln!("figures: events {:?}", self.happened);
        eprintln!("figures: records {counts:?}");
        eprintln!("figures: {text}");
    }
}

fn reference() -> String {
    format!("op://AgentVault/{}/password", ITEMS[0])
}

/// The resident memory of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// How many sets of files a broker holds: each by a descriptor of a mount without a path.
fn held(pid: u32) -> usize {
    let links =
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| link == Path::new("/")).count()
}

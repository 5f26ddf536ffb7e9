//! One broker and its starts, one after another.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::records::Records;
use super::seen;
use super::tally::Outcome;
use super::victim::{Draw, Victim, end_orphans, is_anything_acting, wait_for};
use crate::container::Container;
use crate::engine::Engine;
use crate::spec::Twist;
use crate::support::broker::{Broker, metrics, write_hook_settings};
use crate::support::sandbox;
use crate::support::search::{left, left_now};
use crate::world::World;

/// The longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long podman may take after a process of it was killed. Where its runtime was, conmon waits for the end of the output, which the
/// container's init holds, and podman for conmon: four minutes.
const PATIENCE_OF_PODMAN: Duration = Duration::from_secs(5);

/// How many starts of one kind there are between two that are not disturbed, which show how long each process usually lives.
const MEASURED: u32 = 16;

pub(super) struct Lane<'w> {
    world: &'w World,
    directory: PathBuf,
    broker: Option<Broker>,
    /// The starts that the broker has received, when it was asked last.
    received: u64,
    records: Records,
    titles: [String; 2],
    secrets: [Vec<u8>; 2],
    /// How long each process usually lives, and how many starts of its kind there were.
    lives: BTreeMap<(Engine, Victim), (Duration, u32)>,
}

impl<'w> Lane<'w> {
    pub(super) fn open(world: &'w World, number: usize) -> Lane<'w> {
        let directory = Path::new(sandbox::DIRECTORY).join(format!("lane-{number}"));
        fs::create_dir(&directory).unwrap();
        let canary: String = std::iter::repeat_with(fastrand::alphanumeric).take(32).collect();
        let long: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(64 << 10).collect();
        let secrets = [format!("canary-{canary}").into_bytes(), long];
        let titles = ["short", "long"].map(|name| format!("lane-{number}-{name}"));
        for (title, secret) in titles.iter().zip(&secrets) {
            world.store(title, &[("password", secret)]);
        }
        let path = |name| directory.join(name);
        let more = format!(
            "[broker]\nmetrics = {:?}\n[updates]\ndirectory = {:?}\nrevoked = {:?}\n[audit]\nfile = {:?}\nchain = true\n\
             [deliver]\ndeadline = \"60s\"\n",
            path("metrics"),
            path("containers"),
            path("revoked.json"),
            path("audit"),
        );
        fs::write(path("settings.toml"), world.settings(Path::new(sandbox::DIRECTORY), &more)).unwrap();
        let records = Records::new(path("audit"));
        let lives = BTreeMap::new();
        let mut lane = Lane { world, directory, broker: None, received: 0, records, titles, secrets, lives };
        lane.start_broker();
        lane
    }

    fn start_broker(&mut self) {
        let path = |name| self.directory.join(name);
        self.broker = Some(Broker::start_with(path("settings.toml"), &path("socket"), &path("hook.toml")));
        self.received = 0;
    }

    /// One start, and all checks.
    pub(super) fn start(&mut self, draw: Draw) -> Outcome {
        let mut container = Container::new(self.world);
        container.settings = None;
        let files = ["long", "short"].map(|name| format!("{}-{name}", container.name));
        container.ask(&files[0], &self.titles[1], "password");
        container.ask(&files[1], &self.titles[0], "password");
        let marks = container.marks();
        let id = container.directory.join("id");
        container.twists.push(Twist::Podman(format!("--cidfile={}", id.display())));
        container.write(draw.engine, seen::SCRIPT);
        let deadline = "[deliver]\ndeadline = \"60s\"\n";
        write_hook_settings(&container.settings_path(), &self.directory.join("socket"), deadline);

        let mut command = draw.engine.run(&container, seen::SCRIPT);
        let stderr = container.directory.join("stderr");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&stderr).unwrap());
        let mut command = command.spawn().unwrap();
        let is_killed = self.kill(draw, &container.name, &mut command);
        let names = || {
            let id = fs::read_to_string(&id).ok().filter(|id| !id.is_empty());
            [container.name.clone()].into_iter().chain(id).collect::<Vec<String>>()
        };
        if is_killed && is_of_engine(draw) && !ends_within(&mut command, PATIENCE_OF_PODMAN) {
            end_orphans(draw.engine, &names());
        }
        command.wait().unwrap();
        let names = names();
        settle(&names, &marks);
        let removed = remove(draw, is_killed, &names);

        let about = || {
            let stderr = fs::read_to_string(&stderr).unwrap_or_default();
            format!("{draw:?}, {}: {stderr}; removed: {removed:?}", container.name)
        };
        names.iter().for_each(|name| assert_eq!(left(name), Vec::<String>::new(), "{}", about()));
        let has_run = seen::has_reported(&marks);
        let [short, long] = self.secrets.each_ref().map(Vec::as_slice);
        let difference = seen::difference(&marks, container.user, &[(&files[0], long), (&files[1], short)]);
        assert_eq!(difference, None, "{}", about());
        let on_host = fs::read_dir(container.rootfs().join("run/secrets")).map_or(0, Iterator::count);
        assert_eq!(on_host, 0, "files on the host: {}", about());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(" oci-secrets "), "{}: {mounts}", about());

        let is_broker_killed = is_killed && draw.victim == Victim::Broker;
        let received = if is_broker_killed { None } else { Some(self.newly_received()) };
        let records = self.records.of_start(&self.world.journal, &container.name);
        let fault = records.fault(received, is_killed.then_some(draw.victim), seen::has_begun(&marks));
        assert_eq!(fault, None, "{}", about());
        if is_broker_killed {
            self.start_broker();
        }
        let (is_recorded, is_recorded_by_hook) = (!records.broker.is_empty(), !records.hook.is_empty());
        Outcome { is_killed, has_run, is_recorded, is_recorded_by_hook }
    }

    /// Kills the victim of a start at the drawn moment. Returns false if it was left alone, or had ended.
    fn kill(&mut self, draw: Draw, name: &str, command: &mut Child) -> bool {
        let (usual, number) = self.lives.entry((draw.engine, draw.victim)).or_default();
        let is_measured = number.is_multiple_of(MEASURED);
        *number += 1;
        let Some(found) = wait_for(draw, name, command) else { return false };
        let begin = Instant::now();
        if is_measured {
            assert!(found.ends_within(PATIENCE), "{draw:?}, {name}: it does not end");
            *usual = begin.elapsed();
            return false;
        }
        let has_ended = found.ends_within(usual.mul_f64(draw.moment));
        match draw.victim {
            // The hook may have ended: the broker has not.
            Victim::Broker => self.broker.take().unwrap().signal(Signal::KILL),
            _ if has_ended => return false,
            _ => found.kill(),
        }
        true
    }

    /// How many starts the broker has received since it was asked last. It waits until all have ended.
    fn newly_received(&mut self) -> u64 {
        let mut text = String::new();
        wait_until("the end of all starts", || {
            text = metrics(&self.directory.join("metrics"));
            text.contains("oci_secrets_broker_connections 0\n")
        });
        let outcomes = text.lines().filter_map(|line| line.strip_prefix("oci_secrets_broker_starts_total{outcome=\""));
        let counts = outcomes.filter(|outcome| !outcome.starts_with("nothing"));
        let all: u64 = counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        let new = all - self.received;
        self.received = all;
        new
    }

    /// Ends the broker, which has nothing left. Returns what must be nowhere.
    pub(super) fn close(mut self) -> String {
        let states = || fs::read_dir(self.directory.join("containers")).map_or(0, Iterator::count);
        wait_until("the end of all states", || states() == 0);
        assert!(self.broker.take().unwrap().terminate().success());
        self.world.oci_secrets(&["audit", "verify", self.directory.join("audit").to_str().unwrap()], b"");
        let mut left: Vec<_> = fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        // The next broker takes the place of its sockets, on which nothing listens any more.
        assert_eq!(left, ["audit", "containers", "hook.toml", "metrics", "settings.toml", "socket"]);
        String::from_utf8(self.secrets[0].clone()).unwrap()
    }
}

/// Whether the victim is a process of the engine, which others of it may wait for.
fn is_of_engine(draw: Draw) -> bool {
    !matches!(draw.victim, Victim::Hook | Victim::Broker)
}

/// Removes a container, as an operator does whose engine was killed. Returns what the last attempt has printed.
fn remove(draw: Draw, is_killed: bool, names: &[String]) -> Output {
    let remove = || draw.engine.remove(&names[0]).stdin(Stdio::null()).output().unwrap();
    let mut removed = remove();
    if is_killed && is_of_engine(draw) {
        end_orphans(draw.engine, names);
    }
    // A podman that was killed can leave a state in which the first attempt fails. A runtime fails if there is no such container.
    let deadline = Instant::now() + PATIENCE;
    while draw.engine.is_podman() && !removed.status.success() && Instant::now() < deadline {
        removed = remove();
    }
    removed
}

/// Waits until nothing of a start that was killed can still begin the process of its container, and that has reported if it has begun.
fn settle(names: &[String], marks: &Path) {
    wait_until("the end of a start", || {
        let is_acting = is_anything_acting(names);
        let is_inside = || left_now(&names[0]).iter().any(|line| !line.contains("/cmdline: "));
        !is_acting && (!seen::has_begun(marks) || seen::has_reported(marks) || !is_inside())
    });
}

fn ends_within(command: &mut Child, time: Duration) -> bool {
    let deadline = Instant::now() + time;
    while command.try_wait().unwrap().is_none() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

//! A host with containers whose files follow changes.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::container::Container;
use crate::support::front::Front;
use crate::support::host::{KEY_RING, LOCAL_KEK};
use crate::support::{AGENT_VAULT, program};
use crate::world::World;

/// The references of the secrets of a pair, which always have the same number.
pub(crate) const ITEMS: [&str; 2] = ["pair-a", "pair-b"];

/// The longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host with a pair of secrets, each the canary and a number, and settings for updates.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) items: Vec<String>,
    kek: String,
}

impl Scene {
    pub(crate) fn begin() -> Option<Scene> {
        Some(Scene::of(World::begin()?, LOCAL_KEK))
    }

    /// The same with secrets that a KMS opens, and the server in front of that, which can fail.
    pub(crate) fn with_kms() -> Option<(Scene, Front)> {
        let (world, kms) = World::with_kms()?;
        Some((Scene::of(world, &format!("{KEY_RING}/prod")), kms))
    }

    fn of(world: World, kek: &str) -> Scene {
        let mut scene = Scene { world, items: Vec::new(), kek: kek.to_owned() };
        scene.items = ITEMS.iter().map(|item| scene.store(item, 0)).collect();
        scene.settings("24h");
        scene
    }

    /// Writes settings with this period.
    pub(crate) fn settings(&self, period: &str) {
        let host = &self.world.host;
        let written = fs::read_to_string(host.settings()).unwrap();
        let lines = written.lines().filter(|line| !line.starts_with("period = "));
        let settings: String = lines.map(|line| format!("{line}\n")).collect();
        let text = settings.replace("[updates]\n", &format!("[updates]\nperiod = {period:?}\n"));
        host.write("settings.toml", text.as_bytes(), 0o644);
    }

    pub(crate) fn sealed(&self, item: &str, number: u32) -> String {
        let reference = format!("op://AgentVault/{item}/password");
        let secret = self.secret(number);
        let sealed = self.world.host.oci_secrets(&["seal", "--kek", &self.kek, "--for", &reference], secret.as_bytes());
        assert!(sealed.status.success(), "{sealed:?}");
        String::from_utf8(sealed.stdout).unwrap().trim().to_owned()
    }

    fn store(&self, item: &str, number: u32) -> String {
        self.world.stand_in.create_item(AGENT_VAULT, item, &[("", "password", &self.sealed(item, number))])
    }

    pub(crate) fn secret(&self, number: u32) -> String {
        format!("{} {number}", self.world.canary)
    }

    /// Gives one item another value.
    pub(crate) fn rotate_one(&self, at: usize, number: u32) {
        self.replace(at, &self.sealed(ITEMS[at], number));
    }

    pub(crate) fn replace(&self, at: usize, value: &str) {
        let change = json!([{ "op": "replace", "path": "/fields/0/value", "value": value }]);
        let path = format!("/v1/vaults/{AGENT_VAULT}/items/{}", self.items[at]);
        let changed = self.world.stand_in.request("PATCH", &path, &change);
        assert_eq!(changed["id"], self.items[at].as_str(), "{changed}");
    }

    /// Removes an item from 1Password.
    pub(crate) fn delete(&self, at: usize) {
        let path = format!("/v1/vaults/{AGENT_VAULT}/items/{}", self.items[at]);
        self.world.stand_in.request("DELETE", &path, &Value::Null);
    }

    /// Gives both items the same number.
    pub(crate) fn rotate(&self, number: u32) {
        // At once, as far as a broker that looks for changes can see.
        let values = ITEMS.map(|item| self.sealed(item, number));
        values.iter().enumerate().for_each(|(at, value)| self.replace(at, value));
    }

    pub(crate) fn state(&self, container: &Container, more: &[(&str, &str)]) -> Vec<u8> {
        let files = ITEMS.map(|item| (format!("run.secrets/{item}"), format!("op://AgentVault/{item}/password")));
        let live = [("run.secrets.update", "live")];
        let more = live.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        container.state(files.into_iter().chain(more))
    }

    pub(crate) fn start(&self, broker: &Broker, container: &Container, more: &[(&str, &str)]) {
        let output = broker.hook(&self.state(container, more));
        assert!(output.status.success(), "{output:?}");
    }

    /// Runs `oci-secrets` with root's settings for the hook.
    pub(crate) fn command(&self, broker: &Broker, arguments: &[&str]) -> (i32, String) {
        let mut command = std::process::Command::new(program("oci-secrets"));
        let output = command.arg("--settings").arg(broker.hook_settings()).args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    pub(crate) fn refresh(&self, broker: &Broker) -> (i32, String) {
        self.command(broker, &["refresh"])
    }

    /// How many states of containers there are. What a killed broker was writing is none.
    pub(crate) fn states(&self) -> usize {
        let entries = fs::read_dir(self.world.host.path("containers")).unwrap().flatten();
        entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count()
    }

    /// The last record of an update.
    pub(crate) fn last_update(&self) -> Value {
        let records = self.world.records();
        records.into_iter().rfind(|record| record.get("update").is_some()).unwrap_or_default()
    }
}

/// The directory with the files, as the container's processes find it.
pub(crate) fn target(container: &Container) -> PathBuf {
    format!("/proc/{}/cwd/rootfs/run/secrets", container.pid()).into()
}

/// Both files, read through one open directory.
pub(crate) fn pair(container: &Container) -> [String; 2] {
    let directory = File::open(target(container)).unwrap();
    read_pair(&directory)
}

pub(crate) fn read_pair(directory: &File) -> [String; 2] {
    ITEMS.map(|item| {
        // Not for the containers that other tests start meanwhile.
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory.as_fd(), item, flags, rustix::fs::Mode::empty());
        let mut text = String::new();
        File::from(file.expect("a file is missing")).read_to_string(&mut text).unwrap();
        text
    })
}

pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

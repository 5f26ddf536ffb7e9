//! A container that is about to start: its root filesystem, annotations and settings.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::engine::{Ended, Engine, Running};
use crate::spec::{self, MAPPED, Twist};
use crate::support::broker::Broker;
use crate::support::sandbox;
use crate::user;
use crate::world::World;

/// The hook as operators configure it; only its path and arguments are the test's.
const HOOK: &str = include_str!("../../config/hooks.d/90-oci-secrets.json");
const CHECK: &str = include_str!("../../config/hooks.d/91-oci-secrets-check.json");

thread_local! {
    /// Whether the hooks of the containers that this thread makes ask a broker.
    static THROUGH_BROKER: Cell<bool> = const { Cell::new(false) };
}

/// Makes the hooks of this thread's next containers ask a broker, or not.
pub(crate) fn set_through_broker(broker: bool) {
    THROUGH_BROKER.set(broker);
}

/// A container in the making. Dropping it removes its files.
pub(crate) struct Container<'w> {
    pub(crate) world: &'w World,
    /// Unique among all containers of the tests, and a part of the titles of its items.
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    /// As the spec and as podman know them.
    pub(crate) annotations: BTreeMap<String, String>,
    /// User and group.
    pub(crate) user: (u32, u32),
    pub(crate) twists: Vec<Twist>,
    /// The owner of `/run` in the root filesystem, in ids of the host; `None` for that of all other files.
    pub(crate) owner_of_run: Option<u32>,
    /// The image that podman uses instead of the root filesystem.
    pub(crate) image: Option<String>,
    /// The value of podman's --hooks-dir; `None` for its default.
    pub(crate) hooks: Option<PathBuf>,
    /// What follows the grant in the settings; `None` for no settings at all.
    pub(crate) settings: Option<String>,
    /// Whether its hook asks a broker.
    pub(crate) broker: bool,
    running_broker: Mutex<Option<(Broker, TempDir)>>,
}

impl<'w> Container<'w> {
    /// A container of user 1000 and group 1001 that asks for nothing.
    pub(crate) fn new(world: &'w World) -> Container<'w> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Whose processes they are must be clear even where these tests run twice at a time.
        let number = format!("{}-{:04}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = format!("test-{number}");
        let directory = Path::new(sandbox::DIRECTORY).join(&name);
        sandbox::make_rootfs(&directory.join("rootfs"));
        // Without the name, by which processes that a container leaves are found: podman 5.8 also passes this path to the conmon of the
        // container's pod, which outlives the container.
        let hooks = Path::new(sandbox::DIRECTORY).join(format!("hooks-{number}.d"));
        Container {
            world,
            name,
            directory,
            annotations: BTreeMap::new(),
            user: (1000, 1001),
            twists: Vec::new(),
            owner_of_run: None,
            image: None,
            hooks: Some(hooks),
            settings: Some(String::new()),
            broker: THROUGH_BROKER.get(),
            running_broker: Mutex::default(),
        }
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// The title of the item that is for this file.
    pub(crate) fn title(&self, file: &str) -> String {
        format!("{}-{file}", self.name)
    }

    /// Stores a secret in a new item, requests it as this file, and returns the item's id.
    pub(crate) fn secret(&mut self, file: &str, value: &[u8]) -> String {
        let title = self.title(file);
        self.ask(file, &title, "password");
        self.world.store(&title, &[("password", value)])
    }

    /// Asks for a file.
    pub(crate) fn ask(&mut self, file: &str, title: &str, field: &str) {
        self.annotate(&format!("run.secrets/{file}"), &format!("op://AgentVault/{title}/{field}"));
    }

    pub(crate) fn annotate(&mut self, key: &str, value: &str) {
        self.annotations.insert(key.to_owned(), value.to_owned());
    }

    /// A directory of the host that is mounted at `/marks`: a file there shows that the container ran.
    pub(crate) fn marks(&mut self) -> PathBuf {
        let marks = self.directory.join("marks");
        fs::create_dir(&marks).unwrap();
        fs::set_permissions(&marks, fs::Permissions::from_mode(0o777)).unwrap();
        self.twists.push(Twist::Bind(marks.clone(), "/marks"));
        marks
    }

    /// Runs the script in the container and waits for its end.
    pub(crate) fn run(&self, engine: Engine, script: &str) -> Ended {
        self.write(engine, script);
        Running::start(engine, self, script).end()
    }

    /// Runs the script in the container until it has printed `ready`.
    pub(crate) fn start(&self, engine: Engine, script: &str) -> Running<'_> {
        self.write(engine, script);
        let mut running = Running::start(engine, self, script);
        running.wait_until_ready();
        running
    }

    /// Runs the script in the container of a podman that does not wait for it.
    pub(crate) fn detach(&self, engine: Engine, script: &str) -> Running<'_> {
        self.write(engine, script);
        Running::detached(engine, self, script)
    }

    /// Runs a script that must not run: the container does not start, and nothing is left of it. Returns the reason.
    pub(crate) fn refused(&mut self, engine: Engine) -> Refused {
        let marks = self.marks();
        let ended = self.run(engine, "touch /marks/ran");
        assert!(!ended.status.success(), "it started: {ended:?}");
        assert!(!marks.join("ran").exists(), "its process ran: {ended:?}");
        let records = self.world.journal.records(&self.name);
        let record = records.last().unwrap_or_else(|| panic!("no audit record: {ended:?}"));
        assert_eq!(record["decision"], "refused");
        let code = record["refusal"]["code"].as_i64().unwrap();
        let message = record["refusal"]["message"].as_str().unwrap().to_owned();
        Refused { ended, code, message }
    }

    /// The same on a kernel that is too old: the reason says so. It is printed for the table of `tests/kernels/run`.
    pub(crate) fn refused_by_kernel(&mut self, engine: Engine, reason: &str) {
        let Refused { code, message, .. } = self.refused(engine);
        assert!(code == 71 && message.ends_with(reason), "{code}: {message}");
        println!("refused, as documented: {message}");
    }

    /// Whether the spec has a mount namespace.
    pub(crate) fn has_own_mounts(&self) -> bool {
        !self.twists.iter().any(|twist| matches!(twist, Twist::NoMountNamespace))
    }

    /// The hook's configuration for hooks.d, with this container's settings.
    pub(crate) fn hook(&self) -> Value {
        let mut hook: Value = serde_json::from_str(HOOK).unwrap();
        hook["hook"]["path"] = sandbox::HOOK.into();
        hook["hook"]["args"] = json!(["oci-secrets-hook", "--settings", self.settings_path()]);
        hook
    }

    pub(crate) fn settings_path(&self) -> PathBuf {
        self.directory.join("settings.toml")
    }

    /// An audit file to which the writer of this container's records may append: root's, if that is a broker.
    pub(crate) fn audit_file(&self) -> PathBuf {
        match self.broker {
            false => self.directory.join("audit.jsonl"),
            true => {
                let records = Path::new(sandbox::DIRECTORY).join("records");
                fs::create_dir_all(&records).unwrap();
                records.join(format!("{}.jsonl", self.name))
            }
        }
    }

    /// Writes everything that the engine and the hook read.
    pub(crate) fn write(&self, engine: Engine, script: &str) {
        if let Some(hooks) = &self.hooks {
            fs::create_dir_all(hooks).unwrap();
            fs::write(hooks.join("90-oci-secrets.json"), self.hook().to_string()).unwrap();
            let mut check: Value = serde_json::from_str(CHECK).unwrap();
            check["hook"]["path"] = sandbox::HOOK.into();
            fs::write(hooks.join("91-oci-secrets-check.json"), check.to_string()).unwrap();
        }
        match &self.settings {
            Some(settings) if self.broker => self.start_broker(engine, settings),
            Some(settings) => {
                fs::write(self.settings_path(), self.world.settings(engine.credentials(), settings)).unwrap();
            }
            None => {}
        }
        fs::write(self.directory.join("config.json"), spec::spec(self, script).to_string()).unwrap();
        if engine.is_rootless() {
            user::give(&self.directory, user::ID);
        }
        if self.twists.iter().any(|twist| matches!(twist, Twist::UserNamespace)) {
            user::give(&self.rootfs(), MAPPED.0);
        }
        if let Some(owner) = self.owner_of_run {
            user::give(&self.rootfs().join("run"), owner);
        }
    }

    /// Makes its broker give it new values.
    pub(crate) fn refresh(&self) {
        let broker = self.running_broker.lock().unwrap();
        let (broker, home) = broker.as_ref().unwrap();
        let settings = home.path().join("refresh.toml");
        fs::write(&settings, format!("[broker]\nsocket = {:?}\n", broker.socket())).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_oci-secrets"));
        let output = command.arg("--settings").arg(settings).arg("refresh").output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Starts a broker with root's credentials, in the place of the one before; the hook knows its socket alone. Grants are for the user
    /// who starts the container.
    fn start_broker(&self, engine: Engine, settings: &str) {
        drop(self.running_broker.lock().unwrap().take());
        // Its path is not the container's: what is left of a container is searched for by its name.
        let home = tempfile::Builder::new().prefix("broker").tempdir_in(sandbox::DIRECTORY).unwrap();
        let settings = match (engine.is_rootless(), settings.contains("to = { ")) {
            (false, _) => settings.to_owned(),
            (true, true) => settings.replacen("to = { ", &format!("to = {{ user = {:?}, ", user::NAME), 1),
            (true, false) => format!("to = {{ user = {:?} }}\n{settings}", user::NAME),
        };
        let path = home.path().join("settings.toml");
        fs::write(&path, self.world.settings(Path::new(sandbox::DIRECTORY), &settings)).unwrap();
        let socket = home.path().join("sock");
        let broker = Broker::start_with(path, &socket, &self.settings_path());
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        *self.running_broker.lock().unwrap() = Some((broker, home));
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        for directory in self.hooks.iter().chain([&self.directory]) {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// How a container did not start.
pub(crate) struct Refused {
    pub(crate) ended: Ended,
    /// The hook's exit code.
    pub(crate) code: i64,
    /// The hook's message.
    pub(crate) message: String,
}

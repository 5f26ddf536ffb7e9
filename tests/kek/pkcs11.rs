//! HSMs: SoftHSM with a new token that has a key for each mechanism.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use oci_secrets::fault::{Class, Fault as _};
use oci_secrets::seal::envelope::DataKey;
use oci_secrets::seal::kek::KekError;
use tempfile::TempDir;

use crate::support::{skip, with_mode};
use crate::{Case, DEADLINE, Failure, Fixture, REFERENCE, seal, unwrap, uri, with_keks, with_keks_within, wrapped};

const PIN: &str = "hunter2-pin";
const WRONG_PIN: &str = "hunter2-no-pin";

/// The maximum number of concurrent calls.
const CALLS: usize = 16;

const LIBRARIES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
];

/// Tests that only this kind has.
pub(crate) const CASES: [Case; 7] = [
    ("stores_the_mechanism_that_wrapped_a_key", stores_the_mechanism_that_wrapped_a_key),
    ("starts_no_helper_until_a_value_needs_it", |_| starts_no_helper_until_a_value_needs_it()),
    ("starts_the_helper_with_the_environment_of_the_settings", |_| {
        starts_the_helper_with_the_environment_of_the_settings()
    }),
    ("reports_how_the_helper_ended", |_| reports_how_the_helper_ended()),
    ("leaves_no_process_behind", leaves_no_process_behind),
    ("runs_calls_concurrently", |_| runs_calls_concurrently()),
    ("closes_its_pipes_when_it_is_killed", |_| closes_its_pipes_when_it_is_killed()),
];

struct SoftHsm {
    directory: TempDir,
    library: &'static str,
}

pub(crate) fn fixture() -> Option<Box<dyn Fixture>> {
    Some(Box::new(SoftHsm::new()?))
}

impl SoftHsm {
    /// A token with two keys.
    fn new() -> Option<SoftHsm> {
        let library = LIBRARIES.into_iter().find(|path| fs::exists(path).unwrap_or_default());
        let Some(library) = library.filter(|_| Command::new("softhsm2-util").arg("--version").output().is_ok()) else {
            skip("no softhsm2");
            return None;
        };
        let hsm = SoftHsm { directory: TempDir::new().unwrap(), library };
        fs::create_dir(hsm.path("tokens")).unwrap();
        let tokens = hsm.path("tokens");
        // The same token with and without AES-GCM.
        for (name, mechanisms) in [("all.conf", "ALL"), ("wrap.conf", "CKM_AES_KEY_GEN,CKM_AES_KEY_WRAP_PAD")] {
            let text = format!("directories.tokendir = {}\nslots.mechanisms = {mechanisms}\n", tokens.display());
            with_mode(&hsm.path(name), text.as_bytes(), 0o644);
        }
        with_mode(&hsm.path("pin"), format!("{PIN}\n").as_bytes(), 0o600);
        with_mode(&hsm.path("wrong-pin"), WRONG_PIN.as_bytes(), 0o600);
        let arguments = ["--init-token", "--free", "--label", "test token", "--pin", PIN, "--so-pin", "hunter2-so"];
        let created =
            Command::new("softhsm2-util").args(arguments).env("SOFTHSM2_CONF", hsm.path("all.conf")).output().unwrap();
        assert!(created.status.success(), "{created:?}");
        for (configuration, kek) in ["all.conf", "wrap.conf"].into_iter().zip(hsm.keks()) {
            let settings = hsm.settings_with(configuration, "pin");
            with_keks(&settings, async |keks, deadline| keks.create(&uri(&kek), deadline).await).unwrap();
            let again = with_keks(&settings, async |keks, deadline| keks.create(&uri(&kek), deadline).await);
            assert!(matches!(again, Err(KekError::OfKind(_))), "a key was created twice");
        }
        Some(hsm)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn settings_with(&self, configuration: &str, pin_file: &str) -> String {
        self.settings_of(Path::new(self.library), configuration, pin_file)
    }

    /// Settings with a module that blocks until this number of decryptions is pending.
    fn settings_that_wait_for(&self, calls: usize) -> String {
        let module = self.path("barrier.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/pkcs11_barrier.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", &format!("-DMODULE={:?}", self.library), &format!("-DCALLS={calls}"), "-o"]);
        let compiled = compiler.arg(&module).arg(source).status().unwrap();
        assert!(compiled.success());
        self.settings_of(&module, "all.conf", "pin")
    }

    fn settings_of(&self, module: &Path, configuration: &str, pin_file: &str) -> String {
        format!(
            "keks = {:?}\n[pkcs11]\nmodule = {:?}\nhelper = {:?}\npin-file = {:?}\nenvironment = {{ SOFTHSM2_CONF = {:?} }}\n",
            [self.keks(), ["pkcs11:token=other;object=one".into(), "pkcs11:token=test%20token;object=other".into()]]
                .concat(),
            module,
            env!("CARGO_BIN_EXE_oci-secrets-pkcs11"),
            self.path(pin_file),
            self.path(configuration),
        )
    }
}

impl Fixture for SoftHsm {
    fn settings(&self) -> String {
        self.settings_with("all.conf", "pin")
    }

    /// One for AES-GCM, and one for AES key wrap.
    fn keks(&self) -> [String; 2] {
        ["one", "two"].map(|name| format!("pkcs11:token=test%20token;object={name}"))
    }

    fn failure(&self, failure: Failure) -> (String, String, Class) {
        let [kek, _] = self.keks();
        match failure {
            Failure::Unreachable => (self.settings(), "pkcs11:token=other;object=one".into(), Class::Unavailable),
            Failure::Slow => (scripted_in(self.directory.path(), "exec /bin/sleep 60"), kek, Class::Unavailable),
            Failure::Denied => (self.settings_with("all.conf", "wrong-pin"), kek, Class::NotPermitted),
        }
    }

    fn secrets(&self) -> Vec<String> {
        vec![PIN.into(), WRONG_PIN.into()]
    }
}

fn stores_the_mechanism_that_wrapped_a_key(fixture: &dyn Fixture) {
    let [gcm, wrap] = fixture.keks();
    assert_eq!(wrapped(&seal(fixture, &gcm, REFERENCE))[..4], [0, 0, 0x10, 0x87]);
    let by_wrap = wrapped(&seal(fixture, &wrap, REFERENCE));
    assert_eq!(by_wrap[..4], [0, 0, 0x21, 0x0a]);
    let other = [&[0, 0, 0x10, 0x82], &by_wrap[4..]].concat();
    assert_eq!(unwrap(&fixture.settings(), &wrap, &other).unwrap_err().class(), Class::Data);
    let missing = unwrap(&fixture.settings(), "pkcs11:token=test%20token;object=other", &by_wrap).unwrap_err();
    assert_eq!(missing.class(), Class::Data);
}

fn starts_no_helper_until_a_value_needs_it() {
    let (settings, directory) = scripted("/bin/touch \"$MARK\"");
    let key = DataKey::generate().unwrap();
    with_keks(&settings, async |keks, deadline| {
        keks.prepare(deadline).await;
        assert!(keks.wrap(&uri("local-kek:none"), &key, deadline).await.is_err());
    });
    assert!(!directory.path().join("mark").exists());
    unwrap(&settings, KEK, b"x").unwrap_err();
    assert!(directory.path().join("mark").exists(), "the script was not started");
}

fn starts_the_helper_with_the_environment_of_the_settings() {
    let (settings, directory) = scripted("exec /usr/bin/env > \"$MARK\"");
    unwrap(&settings, KEK, b"x").unwrap_err();
    let environment = fs::read_to_string(directory.path().join("mark")).unwrap();
    // The shell adds these two.
    let environment: Vec<&str> =
        environment.lines().filter(|line| !line.starts_with("PWD=") && !line.starts_with("_=")).collect();
    assert_eq!(environment, [format!("MARK={}", directory.path().join("mark").display())]);
}

fn reports_how_the_helper_ended() {
    for (script, words, class) in [
        ("kill -SEGV $$", "by signal 11", Class::Unavailable),
        ("exit 3", "exit code 3", Class::Settings),
        ("read -r line; echo hello", "does not answer as this version does", Class::Settings),
    ] {
        let (settings, _directory) = scripted(script);
        let error = unwrap(&settings, KEK, b"x").unwrap_err();
        let message = oci_secrets::report::chain(&error);
        assert!(message.contains(words) && error.class() == class, "{script}: {message}");
    }
}

fn leaves_no_process_behind(fixture: &dyn Fixture) {
    let mark = fixture.settings();
    seal(fixture, &fixture.keks()[0], REFERENCE);
    let slow = fixture.failure(Failure::Slow).0;
    let answer = with_keks_within(DEADLINE, &slow, async |keks, deadline| keks.unwrap(&uri(KEK), b"x", deadline).await);
    answer.err().unwrap();
    // Concurrent tests also run helpers, but for a shorter time than the one that hangs.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut helpers = helpers();
    while !helpers.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        helpers = self::helpers();
    }
    assert!(helpers.is_empty(), "{helpers:?} of {mark}");
}

fn runs_calls_concurrently() {
    let Some(fixture) = SoftHsm::new() else { return };
    let kek = uri(&fixture.keks()[0]);
    let wrapped: Vec<_> = (0..CALLS).map(|_| wrapped(&seal(&fixture, kek.as_str(), REFERENCE))).collect();
    let unwrapped = with_keks(&fixture.settings_that_wait_for(CALLS), async |keks, deadline| {
        join_all(wrapped.iter().map(|wrapped| keks.unwrap(&kek, wrapped, deadline))).await
    });
    assert!(unwrapped.into_iter().all(|unwrapped| unwrapped.is_ok()), "not all calls were concurrent");
}

/// An engine reads the hook's output until all writers have closed the pipe.
fn closes_its_pipes_when_it_is_killed() {
    let Some(fixture) = SoftHsm::new() else { return };
    let line = seal(&fixture, &fixture.keks()[0], REFERENCE);
    let directory = TempDir::new().unwrap();
    let settings = directory.path().join("settings.toml");
    with_mode(&settings, fixture.settings_that_wait_for(2).as_bytes(), 0o644);
    let mut command = Command::new(env!("CARGO_BIN_EXE_oci-secrets"));
    command.arg("--settings").arg(&settings).args(["unseal", "--for", REFERENCE]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    let helper = wait_for("a helper", || children_of(child.id()).into_iter().next());
    child.kill().unwrap();
    let (sender, closed) = channel();
    for mut pipe in
        [Box::new(child.stdout.take().unwrap()) as Box<dyn Read + Send>, Box::new(child.stderr.take().unwrap())]
    {
        let sender = sender.clone();
        thread::spawn(move || sender.send(pipe.read_to_end(&mut Vec::new())));
    }
    for _ in 0..2 {
        closed.recv_timeout(Duration::from_secs(5)).expect("a pipe is still open").unwrap();
    }
    child.wait().unwrap();
    wait_for("the helper's end", || {
        let stat = fs::read_to_string(format!("/proc/{helper}/stat")).ok();
        stat.is_none_or(|stat| stat.contains(") Z ")).then_some(())
    });
}

fn wait_for<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The helpers among the children of a process, after execve.
fn children_of(parent: u32) -> Vec<u32> {
    let stats =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("stat")).ok());
    let helpers = stats.filter(|stat| stat.contains("(oci-secrets-pkc") && parent_of(stat) == Some(parent));
    helpers.filter_map(|stat| stat.split(' ').next()?.parse().ok()).collect()
}

/// The parent in the text of `/proc/PID/stat`: the fields after the name, which may contain any characters.
fn parent_of(stat: &str) -> Option<u32> {
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

/// The helpers that this process has started.
fn helpers() -> Vec<String> {
    let ours = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = fs::read_to_string(entry.unwrap().path().join("stat")).ok()?;
        (parent_of(&stat) == Some(id())).then_some(stat)
    });
    ours.filter(|stat| stat.contains("sleep") || stat.contains("oci-secrets-pkc")).collect()
}

const KEK: &str = "pkcs11:token=test%20token;object=one";

/// Settings with a script as the helper, and the directory in which the script can create the file `mark`.
fn scripted(script: &str) -> (String, TempDir) {
    let directory = TempDir::new().unwrap();
    (scripted_in(directory.path(), script), directory)
}

fn scripted_in(directory: &Path, script: &str) -> String {
    let helper = directory.join("helper");
    with_mode(&helper, format!("#!/bin/sh\n{script}\n").as_bytes(), 0o755);
    format!(
        "keks = [{KEK:?}]\n[pkcs11]\nmodule = \"/bin/true\"\nhelper = {helper:?}\nenvironment = {{ MARK = {:?} }}\n",
        directory.join("mark"),
    )
}

//! HSMs, which SoftHSM is: a token made from nothing, with a key for each mechanism.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::time::{Duration, Instant};

use oci_secrets::error::class::Class;
use oci_secrets::seal::envelope::DataKey;
use oci_secrets::seal::kek::KekError;
use tempfile::TempDir;

use crate::support::{skip, with_mode};
use crate::{Place, REFERENCE, Situation, Trouble, seal, unwrap, uri, with_keks, wrapped};

const PIN: &str = "hunter2-pin";
const WRONG_PIN: &str = "hunter2-no-pin";
const LIBRARIES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
];

/// `kek::main` shows these, too.
pub(crate) const SITUATIONS: [Situation; 5] = [
    ("says_which_mechanism_wrapped_a_key", says_which_mechanism_wrapped_a_key),
    ("starts_nothing_until_a_value_needs_it", |_| starts_nothing_until_a_value_needs_it()),
    ("gives_its_process_the_environment_of_the_settings_alone", |_| gives_the_environment_of_the_settings_alone()),
    ("tells_how_the_process_ended", |_| tells_how_the_process_ended()),
    ("leaves_no_process_behind", leaves_no_process_behind),
];

struct SoftHsm {
    directory: TempDir,
    library: &'static str,
}

pub(crate) fn place() -> Option<Box<dyn Place>> {
    let library = LIBRARIES.into_iter().find(|path| fs::exists(path).unwrap_or_default());
    let Some(library) = library.filter(|_| Command::new("softhsm2-util").arg("--version").output().is_ok()) else {
        skip("no softhsm2");
        return None;
    };
    let hsm = SoftHsm { directory: TempDir::new().unwrap(), library };
    fs::create_dir(hsm.path("tokens")).unwrap();
    let tokens = hsm.path("tokens");
    // A token that has no AES-GCM, and the same token when it has.
    for (name, mechanisms) in [("all.conf", "ALL"), ("wrap.conf", "CKM_AES_KEY_GEN,CKM_AES_KEY_WRAP_PAD")] {
        let text = format!("directories.tokendir = {}\nslots.mechanisms = {mechanisms}\n", tokens.display());
        with_mode(&hsm.path(name), text.as_bytes(), 0o644);
    }
    with_mode(&hsm.path("pin"), format!("{PIN}\n").as_bytes(), 0o600);
    with_mode(&hsm.path("wrong-pin"), WRONG_PIN.as_bytes(), 0o600);
    let arguments = ["--init-token", "--free", "--label", "test token", "--pin", PIN, "--so-pin", "hunter2-so"];
    let made =
        Command::new("softhsm2-util").args(arguments).env("SOFTHSM2_CONF", hsm.path("all.conf")).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    for (configuration, kek) in ["all.conf", "wrap.conf"].into_iter().zip(hsm.keks()) {
        let settings = hsm.settings_with(configuration, "pin");
        with_keks(&settings, async |keks, deadline| keks.create(&uri(&kek), deadline).await).unwrap();
        let again = with_keks(&settings, async |keks, deadline| keks.create(&uri(&kek), deadline).await);
        assert!(matches!(again, Err(KekError::OfKind(_))), "a key was made twice");
    }
    Some(Box::new(hsm))
}

impl SoftHsm {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn settings_with(&self, configuration: &str, pin_file: &str) -> String {
        format!(
            "keks = {:?}\n[pkcs11]\nmodule = {:?}\nhelper = {:?}\npin-file = {:?}\nenvironment = {{ SOFTHSM2_CONF = {:?} }}\n",
            [self.keks(), ["pkcs11:token=other;object=one".into(), "pkcs11:token=test%20token;object=other".into()]]
                .concat(),
            self.library,
            env!("CARGO_BIN_EXE_oci-secrets-pkcs11"),
            self.path(pin_file),
            self.path(configuration),
        )
    }
}

impl Place for SoftHsm {
    fn settings(&self) -> String {
        self.settings_with("all.conf", "pin")
    }

    /// One that encrypts by AES-GCM, and one that wraps by AES key wrap.
    fn keks(&self) -> [String; 2] {
        ["one", "two"].map(|name| format!("pkcs11:token=test%20token;object={name}"))
    }

    fn trouble(&self, trouble: Trouble) -> (String, String, Class) {
        let [kek, _] = self.keks();
        match trouble {
            Trouble::Unreachable => (self.settings(), "pkcs11:token=other;object=one".into(), Class::Unavailable),
            Trouble::Slow => (scripted_in(self.directory.path(), "exec /bin/sleep 60"), kek, Class::Unavailable),
            Trouble::Denied => (self.settings_with("all.conf", "wrong-pin"), kek, Class::NotPermitted),
        }
    }

    fn secrets(&self) -> Vec<String> {
        vec![PIN.into(), WRONG_PIN.into()]
    }
}

fn says_which_mechanism_wrapped_a_key(place: &dyn Place) {
    let [gcm, wrap] = place.keks();
    assert_eq!(wrapped(&seal(place, &gcm, REFERENCE))[..4], [0, 0, 0x10, 0x87]);
    let by_wrap = wrapped(&seal(place, &wrap, REFERENCE));
    assert_eq!(by_wrap[..4], [0, 0, 0x21, 0x0a]);
    let other = [&[0, 0, 0x10, 0x82], &by_wrap[4..]].concat();
    assert_eq!(unwrap(&place.settings(), &wrap, &other).unwrap_err().class(), Class::Data);
    let missing = unwrap(&place.settings(), "pkcs11:token=test%20token;object=other", &by_wrap).unwrap_err();
    assert_eq!(missing.class(), Class::Data);
}

fn starts_nothing_until_a_value_needs_it() {
    let (settings, directory) = scripted("/bin/touch \"$MARK\"");
    let key = DataKey::generate().unwrap();
    with_keks(&settings, async |keks, deadline| {
        keks.prepare(deadline).await;
        assert!(keks.wrap(&uri("local-kek:none"), &key, deadline).await.is_err());
    });
    assert!(!directory.path().join("mark").exists());
    unwrap(&settings, KEK, b"x").unwrap_err();
    assert!(directory.path().join("mark").exists(), "the script is not what is started");
}

fn gives_the_environment_of_the_settings_alone() {
    let (settings, directory) = scripted("exec /usr/bin/env > \"$MARK\"");
    unwrap(&settings, KEK, b"x").unwrap_err();
    let given = fs::read_to_string(directory.path().join("mark")).unwrap();
    // The shell adds where it is.
    let given: Vec<&str> = given.lines().filter(|line| !line.starts_with("PWD=") && !line.starts_with("_=")).collect();
    assert_eq!(given, [format!("MARK={}", directory.path().join("mark").display())]);
}

fn tells_how_the_process_ended() {
    for (script, words, class) in [
        ("kill -SEGV $$", "by signal 11", Class::Unavailable),
        ("exit 3", "exit code 3", Class::Settings),
        ("read -r line; echo hello", "does not answer as this version does", Class::Settings),
    ] {
        let (settings, _directory) = scripted(script);
        let error = unwrap(&settings, KEK, b"x").unwrap_err();
        let told = oci_secrets::report::chain(&error);
        assert!(told.contains(words) && error.class() == class, "{script}: {told}");
    }
}

fn leaves_no_process_behind(place: &dyn Place) {
    let mark = place.settings();
    seal(place, &place.keks()[0], REFERENCE);
    unwrap(&place.trouble(Trouble::Slow).0, KEK, b"x").unwrap_err();
    // Other trials have helpers of their own meanwhile, none of them for as long as the one that hangs.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut helpers = helpers();
    while !helpers.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        helpers = self::helpers();
    }
    assert!(helpers.is_empty(), "{helpers:?} of {mark}");
}

/// The processes that this one has started to load a module.
fn helpers() -> Vec<String> {
    let ours = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = fs::read_to_string(entry.unwrap().path().join("stat")).ok()?;
        // After the name, which may hold anything: state and parent.
        let parent: u32 = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
        (parent == id()).then_some(stat)
    });
    ours.filter(|stat| stat.contains("sleep") || stat.contains("oci-secrets-pkc")).collect()
}

const KEK: &str = "pkcs11:token=test%20token;object=one";

/// Settings in which a script stands in for the helper, and the directory where it can leave the file `mark`.
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

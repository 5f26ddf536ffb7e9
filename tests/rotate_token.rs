//! The daily rotation of a static token, with stand-ins for `op`, `gh` and `glab`: at no moment is there no working token.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const SCRIPT: &str = "packaging/rotate-token/oci-secrets-rotate-token";

/// What is rotated, and where it is delivered.
const CASES: [(&str, &str); 6] = [
    ("service-account", "file"),
    ("service-account", "github"),
    ("service-account", "gitlab"),
    ("connect", "file"),
    ("connect", "github"),
    ("connect", "gitlab"),
];

#[test]
fn a_working_token_is_in_place_whenever_the_rotation_is_killed() {
    for (kind, target) in CASES {
        let scene = Scene::new(kind, target);
        assert!(scene.rotate(&[]).status.success());
        let calls = scene.calls(|| assert!(scene.rotate(&[]).status.success()));
        assert!(calls >= 4, "{kind} {target}: {calls} calls");
        for call in 1..=calls {
            for moment in ["before", "after"] {
                scene.forget_calls();
                let output = scene.rotate(&[("KILL_AT", &call.to_string()), ("KILL", moment)]);
                assert_eq!(output.status.signal(), Some(9), "{kind} {target}, {moment} call {call}: {output:?}");
                scene.assert_works(&format!("{kind} {target}, {moment} call {call}"));
            }
        }
        // The next run ends what the killed ones left.
        scene.forget_calls();
        assert!(scene.rotate(&[("KEEP", "0")]).status.success());
        scene.assert_works(kind);
        if kind == "connect" {
            assert_eq!(scene.tokens().len(), 1, "{:?}", scene.tokens());
        }
        assert!(!scene.state().join("leak").exists(), "a token was an argument");
    }
}

#[test]
fn a_token_that_does_not_work_is_not_delivered_and_ends_no_other() {
    for (kind, target) in CASES {
        let scene = Scene::new(kind, target);
        assert!(scene.rotate(&[]).status.success());
        let before = scene.delivered();
        for refused in ["op vault get", "op service-account create", "op connect token create"] {
            if refused.contains("create") && !refused.contains(kind) {
                continue;
            }
            let output = scene.rotate(&[("REFUSE", refused)]);
            assert_eq!(output.status.code(), Some(1), "{kind} {target}: {output:?}");
            assert_eq!(scene.delivered(), before);
            scene.assert_works(refused);
        }
        for refused in ["mv", "gh secret set", "gh secret list", "glab variable", "op connect token list"] {
            scene.rotate(&[("REFUSE", refused)]);
            scene.assert_works(refused);
        }
    }
}

#[test]
fn jobs_that_have_begun_keep_the_token_before() {
    let scene = Scene::new("connect", "github");
    for old in ["ci-20200101T000000000Z", "ci-20200102T000000000Z", "other-20200101T000000000Z", "ci-by-hand"] {
        fs::write(scene.state().join("tokens").join(old), format!("canary-token-{old}")).unwrap();
    }
    assert!(scene.rotate(&[]).status.success());
    // The first was replaced long ago, the second just now; the others are not ours.
    let tokens = scene.tokens();
    assert!(!tokens.contains(&"ci-20200101T000000000Z".into()), "{tokens:?}");
    assert!(
        ["ci-20200102T000000000Z", "other-20200101T000000000Z", "ci-by-hand"]
            .iter()
            .all(|name| tokens.contains(&(*name).into()))
    );
    assert_eq!(tokens.len(), 4);
    let made = fs::read_to_string(scene.state().join("variables/OP_TOKEN_MADE")).unwrap();
    assert!(made.parse::<jiff::Timestamp>().is_ok(), "{made}");
}

#[test]
fn reports_a_variable_that_is_missing_or_wrong() {
    let scene = Scene::new("connect", "file");
    for (name, value, message) in [
        ("FILE", "", "FILE is not set"),
        ("KIND", "password", "KIND is \"password\", expected service-account or connect"),
        ("TARGET", "mail", "TARGET is \"mail\", expected file, github or gitlab"),
        ("NAME", "c i", "NAME may have letters, digits, - and _"),
    ] {
        let output = scene.rotate(&[(name, value)]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(text, format!("oci-secrets-rotate-token: error: {message}\n"));
    }
}

/// systemd takes the whole rest of a line as the value, a comment behind it, too.
#[test]
fn the_documented_file_configures_a_rotation() {
    let page = fs::read_to_string(root().join("packaging/docs/ci.md")).unwrap();
    let (_, block) = page.split_once("```bash\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let variables: Vec<_> =
        block.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_once('=').unwrap()).collect();
    for name in ["KIND", "NAME", "VAULT", "TARGET", "REPOSITORY", "VARIABLE"] {
        assert!(variables.iter().any(|(variable, _)| *variable == name), "{name} is missing");
    }
    let scene = Scene::new("service-account", "github");
    let output = scene.rotate(&variables);
    assert!(output.status.success(), "{output:?}");
    scene.assert_works("the documented file");
}

/// Stand-ins and their state.
struct Scene {
    directory: TempDir,
    kind: &'static str,
    target: &'static str,
}

impl Scene {
    fn new(kind: &'static str, target: &'static str) -> Scene {
        let directory = tempfile::tempdir().unwrap();
        for name in ["bin", "state/tokens", "state/variables"] {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        let program = root().join("tests/support/rotate-token/program");
        for name in ["op", "gh", "glab", "install", "mv"] {
            symlink(&program, directory.path().join("bin").join(name)).unwrap();
        }
        Scene { directory, kind, target }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Runs the script in a process group of its own, with these variables besides those of a working configuration.
    fn rotate(&self, variables: &[(&str, &str)]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.directory.path().join("bin").display());
        let mut command = Command::new(root().join(SCRIPT));
        command
            .env_clear()
            .env("PATH", path)
            .env("STATE", self.state())
            .env("XDG_RUNTIME_DIR", self.directory.path())
            .envs([
                ("KIND", self.kind),
                ("TARGET", self.target),
                ("NAME", "ci"),
                ("PAUSE", "0"),
                ("VARIABLE", "OP_TOKEN"),
            ])
            .envs([("SERVER", "prod"), ("CONNECT_HOST", "http://127.0.0.1:9"), ("REPOSITORY", "acme/app")])
            .env("VAULT", if self.kind == "connect" { "AgentVault,r" } else { "AgentVault:read_items" })
            .env("FILE", self.directory.path().join("token"))
            .envs(variables.iter().copied());
        command.process_group(0).output().unwrap()
    }

    /// The number of calls of the stand-ins.
    fn calls(&self, work: impl FnOnce()) -> u32 {
        self.forget_calls();
        work();
        fs::read_to_string(self.state().join("calls")).unwrap().trim().parse().unwrap()
    }

    fn forget_calls(&self) {
        let _ = fs::remove_file(self.state().join("calls"));
    }

    fn delivered(&self) -> String {
        let path = match self.target {
            "file" => self.directory.path().join("token"),
            _ => self.state().join("variables/OP_TOKEN"),
        };
        fs::read_to_string(path).unwrap()
    }

    /// Whether 1Password accepts the token that a container or job gets now.
    fn assert_works(&self, when: &str) {
        let delivered = self.delivered();
        let is_valid = self.tokens().iter().any(|name| {
            fs::read_to_string(self.state().join("tokens").join(name)).is_ok_and(|token| token == delivered)
        });
        assert!(is_valid, "{when}: {delivered:?} is not among {:?}", self.tokens());
    }

    fn tokens(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state().join("tokens")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

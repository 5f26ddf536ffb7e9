//! The runner of a CI system: it runs the script of a job, and has podman and the hook, but no credentials.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::pipeline::{PROVIDER, Pipeline, SECRET, STAND_IN_PROVIDER};
use crate::support::{program, python, skip, with_mode};

/// The script of the container.
const SCRIPT: &str = "cat /run/secrets/db-password; grep ' /run/secrets ' /proc/mounts; env; touch /run/secrets/x";

/// Like sudo, it keeps only PATH.
const SUDO: &str = "#!/bin/sh\nexec env -i PATH=\"$PATH\" \"$@\"\n";

/// The guide, which contains the script of a job without an identity.
const GUIDE: &str = include_str!("../../packaging/docs/ci.md");

/// The PATH of a job's scripts.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) struct Runner {
    /// The job, as `ci_workflow.py` prints it.
    pub(crate) job: Value,
    directory: TempDir,
}

/// The result of a job.
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    /// Its output.
    pub(crate) text: String,
}

impl Runner {
    /// Installs the requirements of a platform's workflow file; `None` without podman or the Python packages.
    pub(crate) fn new(pipeline: &Pipeline, platform: &str) -> Option<Runner> {
        Runner::of_workflow(pipeline, platform, &fs::read_to_string(workflow("settings")).unwrap())
    }

    /// The same for GitHub Actions with AWS instead of Google, as `packaging/docs/ci.md` describes.
    pub(crate) fn of_aws(pipeline: &Pipeline) -> Option<Runner> {
        let settings = fs::read_to_string(workflow("settings")).unwrap();
        let (google, aws) = settings.split_once("#keks = ").expect("the settings have none for AWS");
        let (aws, grant) = aws.split_once("\n\n").unwrap();
        let connect = &google[google.find("[connect]").unwrap()..google.find("[gcp-kms]").unwrap()];
        let settings = format!("keks = {}\n{connect}{grant}", aws.replace("\n#", "\n"));
        let mut runner = Runner::of_workflow(pipeline, "github", &settings)?;
        let job = runner.job.to_string().replace("google-token", "aws-token");
        runner.job = serde_json::from_str(&job).unwrap();
        runner.job["env"]["GOOGLE"] = "sts.amazonaws.com".into();
        Some(runner)
    }

    fn of_workflow(pipeline: &Pipeline, platform: &str, settings: &str) -> Option<Runner> {
        let mut client = python::client("ci_workflow.py")?;
        if !can_run_containers() {
            return None;
        }
        let job = client.args(["job", platform]).arg(workflow(platform)).output().unwrap();
        let job = serde_json::from_slice(&job.stdout).expect("no job");
        let endpoint = format!("[gcp-kms]\nendpoint = \"{}\"", pipeline.stand_in.kms());
        Some(Runner::with(job, &settings.replace(PROVIDER, STAND_IN_PROVIDER).replace("[gcp-kms]", &endpoint)))
    }

    /// The runner of a CI system without OIDC, as in the guide, with a stand-in for `op`; `None` without podman.
    pub(crate) fn without_oidc(pipeline: &Pipeline) -> Option<Runner> {
        if !can_run_containers() {
            return None;
        }
        let (_, section) = GUIDE.split_once("\n## Without OIDC\n").unwrap();
        let block = |language: &str| {
            let (_, block) = section.split_once(&format!("```{language}\n")).unwrap();
            block.split_once("```").unwrap().0.to_owned()
        };
        let job = json!({ "script": [block("sh")], "env": {}, "has_identity": false });
        let runner = Runner::with(job, "");
        let op = format!("[op]\nprogram = {:?}", runner.path("bin/op"));
        let settings = format!("{}\n{}", block("toml").replace("[op]", &op), pipeline.kms_settings());
        with_mode(&runner.path("settings.toml"), settings.as_bytes(), 0o644);
        let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/op");
        with_mode(&runner.path("bin/op"), &fs::read(stand_in).unwrap(), 0o755);
        let (connect, token) = (pipeline.stand_in.connect(), pipeline.stand_in.token());
        let setup = json!({ "connect": connect, "token": token, "authority": pipeline.stand_in.ca_file() });
        with_mode(&runner.path("bin/op.json"), setup.to_string().as_bytes(), 0o600);
        Some(runner)
    }

    fn with(job: Value, settings: &str) -> Runner {
        let runner = Runner { job, directory: tempfile::Builder::new().prefix("runner").tempdir().unwrap() };
        runner.install(settings);
        runner
    }

    fn install(&self, settings: &str) {
        for directory in
            ["bin", "hooks.d", "rootfs/bin", "rootfs/proc", "rootfs/dev", "rootfs/sys", "rootfs/etc", "rootfs/run"]
        {
            fs::create_dir_all(self.path(directory)).unwrap();
        }
        fs::copy("/bin/busybox", self.path("rootfs/bin/busybox")).unwrap();
        for applet in ["sh", "cat", "grep", "env", "touch"] {
            symlink("busybox", self.path("rootfs/bin").join(applet)).unwrap();
        }
        with_mode(&self.path("settings.toml"), settings.as_bytes(), 0o644);
        symlink(program("oci-secrets"), self.path("bin/oci-secrets")).unwrap();
        with_mode(&self.path("bin/sudo"), SUDO.as_bytes(), 0o755);
        self.meanwhile("true");
        with_mode(&self.path("bin/podman"), self.podman().as_bytes(), 0o755);
        let mut install = Command::new(program("oci-secrets"));
        install.args(["install", "--engine", "podman", "--hook"]).arg(program("oci-secrets-hook"));
        let printed = install.arg("--json").arg("--settings").arg(self.path("settings.toml")).output().unwrap();
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        for file in serde_json::from_slice::<Value>(&printed.stdout).unwrap().as_array().unwrap() {
            let name = Path::new(file["path"].as_str().unwrap()).file_name().unwrap();
            with_mode(&self.path("hooks.d").join(name), file["content"].as_str().unwrap().as_bytes(), 0o644);
        }
    }

    /// A wrapper around podman that uses a directory instead of an image of a registry.
    fn podman(&self) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        format!(
            "#!/bin/bash\nset -e\n. {3}\nexec /usr/bin/podman --runtime=runc --root={0}/containers --runroot={0}/run --storage-driver=vfs \
             --cgroup-manager=cgroupfs --events-backend=none run --hooks-dir={1} --network=none --log-driver=none \
             --ulimit=nofile=1024:1024 --ulimit=nproc=4096:4096 \"${{@:2:$#-2}}\" --rootfs {2} sh -c \"{SCRIPT}\"\n",
            path("podman"),
            path("hooks.d"),
            path("rootfs"),
            path("meanwhile")
        )
    }

    /// Sets a command that runs between requesting the tokens of a job and starting its container.
    pub(crate) fn meanwhile(&self, script: &str) {
        fs::write(self.path("meanwhile"), script).unwrap();
    }

    /// Runs the job with what its platform gives it.
    pub(crate) fn run(&self, job: &BTreeMap<String, String>) -> Run {
        let script = self.path("job.sh");
        let steps: String = self.job["script"].as_array().unwrap().iter().map(|step| step.as_str().unwrap()).collect();
        fs::write(&script, steps).unwrap();
        let mut command = Command::new("bash");
        // As GitHub runs a step whose shell is bash; GitLab's scripts end at the first failure, too.
        let pipefail: &[&str] = if self.job["has_identity"] == true { &["-o", "pipefail"] } else { &[] };
        command.args(["--noprofile", "--norc", "-e"]).args(pipefail).arg(script).env_clear();
        command.env("PATH", format!("{}:{PATH}", self.path("bin").display())).envs(self.environment()).envs(job);
        let output = command.output().unwrap();
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Run { status: output.status, text }
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let of_the_file = self.job["env"].as_object().unwrap();
        of_the_file
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().replace(PROVIDER, STAND_IN_PROVIDER)))
            .collect()
    }

    /// Runs the job, and checks what the container received, and that nothing else received it.
    pub(crate) fn delivers(&self, pipeline: &Pipeline, job: &BTreeMap<String, String>) {
        let run = self.run(job);
        assert!(run.text.contains(SECRET), "{}", run.text);
        assert!(run.text.contains(" /run/secrets tmpfs ro,nosuid,nodev,noexec"), "{}", run.text);
        assert!(run.text.contains("touch: /run/secrets/x: Read-only file system"), "{}", run.text);
        let mut all = format!("{job:?}\n{:?}\n", self.environment());
        let _ = write!(all, "{}", run.text.replacen(SECRET, "", 1));
        let mut files = 0;
        for place in [self.directory.path(), Path::new("/run"), Path::new("/etc/oci-secrets")] {
            files += read_all(place, &mut all);
        }
        assert!(files > 10 && all.contains("eyJ"), "only {files} files were searched");
        assert!(!all.contains(SECRET), "the secret is on the runner");
        for credential in pipeline.static_credentials() {
            assert!(!all.contains(credential.trim()), "a credential that lasts is on the runner");
        }
        for after in self.job["after"].as_array().unwrap() {
            let mut command = Command::new("sh");
            command.args(["-c", after.as_str().unwrap()]).env_clear();
            let cleaned = command.env("PATH", format!("{}:{PATH}", self.path("bin").display())).status().unwrap();
            assert!(cleaned.success());
        }
        assert!(!Path::new("/run/oci-secrets/gateway-token").exists());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn can_run_containers() -> bool {
    let can = ["/usr/bin/podman", "/usr/sbin/runc", "/bin/busybox"].iter().all(|program| Path::new(program).exists());
    if !can {
        skip("a container takes podman, runc and busybox");
    }
    can
}

/// A file of `config/ci`.
pub(crate) fn workflow(name: &str) -> PathBuf {
    let file = match name {
        "github" => "github-actions.yml",
        "gitlab" => "gitlab-ci.yml",
        _ => "settings.toml",
    };
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ci").join(file)
}

/// Adds the content of every file below a directory, and counts them. The root filesystem's programs are passed over.
fn read_all(place: &Path, all: &mut String) -> usize {
    let entries = fs::read_dir(place).into_iter().flatten().map(|entry| entry.unwrap());
    let mut files = 0;
    for entry in entries.filter(|entry| entry.file_name() != "rootfs") {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files += read_all(&entry.path(), all);
        } else if kind.is_file() {
            all.push_str(&String::from_utf8_lossy(&fs::read(entry.path()).unwrap()));
            files += 1;
        }
    }
    files
}

//! The wrapper, which adds the hook to a bundle and becomes the runtime.

use std::fs;
use std::process::Command;

use crate::support::inject::{self, Fault, faults_of_message};
use crate::support::{program, with_mode};
use crate::world::{World, for_each};

const SPEC: &str = r#"{"ociVersion":"1.0.2","annotations":{"run.secrets/db":"op://AgentVault/faulty/db"},"process":{"user":{"uid":1000,"gid":1000}},"root":{"path":"rootfs"}}"#;

#[test]
fn a_runtime_reads_the_hook_or_does_not_run_whichever_call_of_the_wrapper_fails() {
    let Some(world) = World::begin() else { return };
    let (runtime, log) = (world.host.path("runtime"), world.host.path("log"));
    // Without a shell, whose calls would fail, too.
    fs::copy("/bin/busybox", &runtime).unwrap();
    let call = |bundle: &std::path::Path| {
        let mut wrapper = Command::new(program("oci-secrets-runtime"));
        wrapper.env_clear().current_dir(bundle).arg("--runtime").arg(&runtime).args(["--hook", "/usr/libexec/hook"]);
        wrapper.args(["create", "--bundle", "."]);
        wrapper
    };
    let bundle = || {
        let bundle = tempfile::tempdir().unwrap();
        with_mode(&bundle.path().join("config.json"), SPEC.as_bytes(), 0o644);
        bundle
    };
    let whole = bundle();
    inject::run(&mut inject::logged(&call(whole.path()), &log), b"");
    let with_hook = fs::read_to_string(whole.path().join("config.json")).unwrap();
    assert!(with_hook.contains("/usr/libexec/hook"));
    let test = |fault: &Fault| {
        let bundle = bundle();
        let output = inject::run(&mut fault.inject(&call(bundle.path())), b"");
        let spec = fs::read_to_string(bundle.path().join("config.json")).unwrap();
        let names = fs::read_dir(bundle.path()).unwrap().count();
        // Busybox knows no applet of the name of the runtime, and says so.
        let has_run = String::from_utf8_lossy(&output.stderr).contains("applet not found");
        if names != 1 || has_run && spec != with_hook || spec != SPEC && spec != with_hook {
            return Some(format!("{names} files, run: {has_run}: {spec}"));
        }
        if has_run { None } else { faults_of_message("oci-secrets-runtime", &output, fault.is_of_memory()) }
    };
    for_each(inject::of_run(&log), test);
}

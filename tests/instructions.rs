//! What every container of a host pays for: the hook, for a container that requests nothing. Its instructions are counted, because they
//! do not depend on the load of the machine as its duration does.
//!
//! qemu's user emulation writes a line for each instruction. Its processor is always the same one, and with it the functions that libc
//! chooses. callgrind cannot run the hook, which starts itself again without a `LD_PRELOAD`.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod support;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::Command;

use support::{host, program, skip};

/// Of a static program that is not optimized: 286,000 in November 2026.
const INSTRUCTIONS_MAX: usize = 315_000;

/// What podman annotates each container with.
const STATE: &str = r#"{
    "ociVersion": "1.0.2", "id": "0123456789abcdef", "status": "creating", "pid": 1, "bundle": "/nonexistent",
    "annotations": {
        "io.container.manager": "libpod",
        "io.podman.annotations.init": "FALSE",
        "org.opencontainers.image.stopSignal": "15"
    }
}"#;

#[test]
fn a_container_that_requests_nothing_costs_few_instructions() {
    let hook = program("oci-secrets-hook");
    let Ok(help) = Command::new(QEMU).arg("--help").output() else { return skip("no qemu-user") };
    if is_dynamic(&hook) {
        return skip("the loader of a dynamic program dominates: RUSTC_WRAPPER=$PWD/packaging/rustc");
    }
    let help = String::from_utf8(help.stdout).unwrap();
    let count = instructions(&hook, if help.contains(ONE_BY_ONE) { ONE_BY_ONE } else { ONE_BY_ONE_UNTIL_8_0 });
    assert!(
        (INSTRUCTIONS_MAX / 10..=INSTRUCTIONS_MAX).contains(&count),
        "{count} instructions, expected at most {INSTRUCTIONS_MAX}. Each start of a container without annotations of ours waits for them: \
         do this work only once a request is found. {QEMU} -d nochain,exec shows which functions they belong to"
    );
}

const QEMU: &str = "qemu-x86_64";
const ONE_BY_ONE: &str = "-one-insn-per-tb";
const ONE_BY_ONE_UNTIL_8_0: &str = "-singlestep";

/// How many instructions the program executes for [`STATE`].
fn instructions(program: &Path, one_by_one: &str) -> usize {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut qemu = Command::new(QEMU);
    qemu.env_clear().args(["-cpu", "qemu64", "-d", "nochain,exec", one_by_one, "-D"]).arg(log.path()).arg(program);
    // Which must not be read here.
    qemu.arg("--settings").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/config/settings.toml"));
    let output = host::run(&mut qemu, STATE.as_bytes());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut count, mut last) = (0, String::new());
    for line in BufReader::new(File::open(log.path()).unwrap()).lines().map(Result::unwrap) {
        // `Trace 0: 0x7f… [segment/address/flags/flags]`. Versions differ in whether an instruction that repeats itself is one line.
        let address = line.strip_prefix("Trace ").and_then(|line| line.split('/').nth(1)).unwrap_or_default();
        count += usize::from(!address.is_empty() && address != last);
        last.replace_range(.., address);
    }
    count
}

/// Whether a program names the dynamic loader, as it does near its beginning.
fn is_dynamic(program: &Path) -> bool {
    const LOADER: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
    let mut beginning = Vec::new();
    File::open(program).unwrap().take(4096).read_to_end(&mut beginning).unwrap();
    beginning.windows(LOADER.len()).any(|bytes| bytes == LOADER)
}

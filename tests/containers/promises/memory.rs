//! What the hook asks of the kernel, and what others cannot get from it.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::container::Container;
use crate::direct::{Created, Program};
use crate::spec::Twist;
use crate::support::sandbox;
use crate::world::World;

/// Words before a command line that let it leave a core.
const WITH_CORE: [&str; 4] = ["sh", "-c", r#"ulimit -c unlimited; exec "$0" "$@""#, "setpriv"];
/// Words before a command line that make it root without the right to look into others of root's, by whichever name.
const WITHOUT_PTRACE: [&str; 3] = ["setpriv", "--bounding-set", "-sys_ptrace,-perfmon,-sys_admin"];

pub(super) fn a_crash_leaves_no_core(world: &World) {
    // Not SIGQUIT: a shell that runs the tests in the background makes them ignore it.
    for signal in [Signal::ABORT, Signal::SEGV] {
        let mut container = Container::new(world);
        let title = ask_in_vain(&mut container);
        let created = Created::new(&container);
        let mut hook = created.hook(&WITH_CORE);
        wait_until_it_asks(world, &title);
        // As a fault does, which comes again as long as its cause is there: Rust's runtime handles the first SIGSEGV and continues.
        while hook.0.try_wait().unwrap().is_none() {
            kill_process(Pid::from_child(&hook.0), signal).unwrap();
        }
        let ended = hook.end();
        assert_eq!((ended.status.signal(), ended.status.core_dumped()), (Some(signal.as_raw()), false));
        assert!(!created.mounts().contains("/run/secrets"));
    }
    // Where cores are files in the working directory, another program leaves one under the same conditions.
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if !pattern.starts_with(['|', '/']) {
        let directory = tempfile::tempdir_in(sandbox::DIRECTORY).unwrap();
        let mut command = Command::new(WITH_CORE[0]);
        command.args(&WITH_CORE[1..]).args(["sh", "-c", "kill -ABRT $$"]);
        assert!(command.current_dir(&directory).status().unwrap().core_dumped());
    }
}

pub(super) fn nobody_without_the_right_reads_its_memory(_: &World) {
    // It waits for its state, and has hidden its memory before.
    let hook = without_ptrace(env!("CARGO_BIN_EXE_oci-secrets-hook"), &[]);
    let other = without_ptrace("sleep", &["60"]);
    wait_for_exec(&hook, "oci-secrets-hoo\n");
    wait_for_exec(&other, "sleep\n");
    for file in ["environ", "maps"] {
        assert!(can_read(&other, file), "not even of another program: {file}");
        let deadline = Instant::now() + Duration::from_secs(5);
        while can_read(&hook, file) {
            assert!(Instant::now() < deadline, "{file}");
        }
    }
}

pub(super) fn the_kernel_hears_of_the_label_and_of_swap(world: &World) {
    const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.twists.push(Twist::MountLabel(LABEL));
    let created = Created::new(&container);
    let trace = container.directory.join("trace");
    let ended =
        created.hook(&["strace", "-f", "-e", "trace=fsconfig", "-s", "100", "-o", trace.to_str().unwrap()]).end();
    assert!(ended.status.success(), "{ended:?}");
    let trace = fs::read_to_string(trace).unwrap();
    let calls: Vec<&str> = trace.lines().filter_map(|line| Some(line.split_once("fsconfig(")?.1)).collect();
    let position = |words: &str| {
        calls.iter().position(|call| call.contains(words)).unwrap_or_else(|| panic!("no {words}: {calls:?}"))
    };
    let (create, reconfigure) = (position("FSCONFIG_CMD_CREATE"), position("FSCONFIG_CMD_RECONFIGURE"));
    assert!(position(&format!(r#"FSCONFIG_SET_STRING, "context", "{LABEL}""#)) < create);
    let noswap = |calls: &[&str]| calls.iter().any(|call| call.contains(r#""noswap""#) && call.ends_with("= 0"));
    assert_eq!(noswap(&calls[..create]), sandbox::kernel_has_noswap());
    assert_eq!(noswap(&calls[create..reconfigure]), sandbox::kernel_has_noswap());
}

/// Lets the container ask for what takes longer to come than any test.
fn ask_in_vain(container: &mut Container<'_>) -> String {
    let title = format!("slow-20000-once-{}", container.name);
    container.ask("db", &title, "password");
    title
}

fn wait_until_it_asks(world: &World, title: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !world.stand_in.requests().iter().any(|request| request.to_string().contains(title)) {
        assert!(Instant::now() < deadline, "it does not ask for {title}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a program with as few rights as those who will try to read it, and an input that does not come.
fn without_ptrace(program: &str, arguments: &[&str]) -> Program {
    let mut command = Command::new(WITHOUT_PTRACE[0]);
    command.args(&WITHOUT_PTRACE[1..]).arg(program).args(arguments).env_clear().env("PATH", sandbox::PATH);
    Program(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Waits until the child is no longer the program that starts it.
fn wait_for_exec(child: &Program, name: &str) {
    let program = format!("/proc/{}/comm", child.0.id());
    while fs::read_to_string(&program).unwrap() != name {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process of the same user, with the same capabilities, can read this of the process. For its memory and for tracing it,
/// the kernel asks for the same and more: see ptrace(2), "Ptrace access mode checking".
fn can_read(process: &Program, file: &str) -> bool {
    let path = Path::new("/proc").join(process.0.id().to_string()).join(file);
    let mut command = Command::new(WITHOUT_PTRACE[0]);
    command.args(&WITHOUT_PTRACE[1..]).arg("cat").arg(path).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().success()
}

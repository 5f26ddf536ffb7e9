//! The broker, in whose run of one start a call fails.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::support::broker;
use crate::support::inject::{self, content, faults_of_message};
use crate::world::{World, for_each, wrong_start};

const PATIENCE: Duration = Duration::from_secs(30);

/// A broker under strace.
struct Traced {
    child: Child,
    stderr: File,
}

impl Traced {
    /// Starts it, and waits until it listens or has ended.
    fn start(world: &World, mut command: Command) -> Traced {
        let _ = fs::remove_file(world.host.path("broker.sock"));
        let stderr = tempfile::tempfile().unwrap();
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr.try_clone().unwrap());
        let mut traced = Traced { child: command.spawn().unwrap(), stderr };
        let deadline = Instant::now() + PATIENCE;
        while !traced.has_ended() && UnixStream::connect(world.host.path("broker.sock")).is_err() {
            assert!(Instant::now() < deadline, "it neither listens nor ends");
            sleep(Duration::from_millis(2));
        }
        traced
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Asks it to end, and returns what is wrong with how it has ended.
    fn end(mut self, is_of_memory: bool) -> Option<String> {
        let was_running = !self.has_ended();
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() {
            if Instant::now() > deadline {
                let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
                return Some("it does not end".to_owned());
            }
            // Again and again: the fault may be that of the call by which its handler passes the signal on.
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            sleep(Duration::from_millis(10));
        }
        let output = Output { status: self.child.wait().unwrap(), stdout: Vec::new(), stderr: content(self.stderr) };
        match was_running && output.status.success() {
            true => None,
            false => faults_of_message("oci-secrets-broker", &output, is_of_memory),
        }
    }
}

#[test]
fn a_start_is_whole_or_refused_whichever_call_of_the_broker_fails() {
    let Some(world) = World::begin() else { return };
    let (socket, settings, log) =
        (world.host.path("broker.sock"), world.host.path("hook.toml"), world.host.path("log"));
    broker::write_hook_settings(&settings, &socket, "");
    let mut command = world.host.program("oci-secrets-broker");
    command.arg("--socket").arg(&socket);
    let undisturbed = Traced::start(&world, inject::logged(&command, &log));
    assert!(world.start(&mut broker::hook(&settings)).status.success());
    assert_eq!(undisturbed.end(false), None);
    let files = world.files();
    for_each(inject::of_run(&log), |fault| {
        let mut broker = Traced::start(&world, fault.inject(&command));
        let wrong = wrong_start(&world, &mut broker::hook(&settings), fault.is_of_memory());
        // Each of its threads meets the fault once.
        let recovers = (0..20).any(|_| {
            let is_well = broker.has_ended() || world.start(&mut broker::hook(&settings)).status.success();
            if !is_well {
                sleep(Duration::from_millis(100));
            }
            is_well
        });
        let unwell = (!recovers).then(|| "it serves no later start".to_owned());
        let wrong_end = broker.end(fault.is_of_memory());
        wrong.or(unwell).or(wrong_end)
    });
    world.has_refused_starts();
    assert_eq!(world.files(), files);
    assert_eq!(world.processes("oci-secrets-broker"), [0; 0]);
}

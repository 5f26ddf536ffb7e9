//! Attacks by input: the state on standard input, the spec, and the items of 1Password.

use std::fs::{self, File};
use std::io::Write;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::scene::{Hook, Scene};
use crate::support::AGENT_VAULT;
use crate::victim::Victim;

/// The limit for standard error: some runtimes do not read it, and block when the pipe of 64 KiB is full.
const OUTPUT_BYTES_MAX: usize = 4096;

/// The number of concurrently waiting hooks.
const WAITING: usize = 250;

pub(super) fn endless_input_ends(scene: &mut Scene) {
    let victim = Victim::new(|_| ());
    for round in 0..scene.rounds() {
        let mut command = scene.command();
        let ended = match round % 20 {
            // The maximum depth or length within the limit.
            0 => Hook::start(&mut command, &b"[".repeat(4 << 20)).end(),
            1 => Hook::start(&mut command, &many_annotations()).end(),
            2..10 => {
                let mut hook = Hook::spawn(command.stdin(Stdio::piped()));
                let mut stdin = hook.child.stdin.take().unwrap();
                let piece = br#"{"id":"#.iter().copied().chain([b' '; 65536]).collect::<Vec<_>>();
                while stdin.write_all(&piece).is_ok() {}
                hook.end()
            }
            _ => Hook::spawn(command.stdin(File::open("/dev/zero").unwrap())).end(),
        };
        assert_eq!(ended.status.code(), Some(65), "{ended:?}");
        scene.judge(&victim, &ended);
    }
}

/// A state of nearly 4 MiB in which every annotation is a request.
fn many_annotations() -> Vec<u8> {
    let annotation = |number: usize| (format!("run.secrets/f{number}"), Value::from("op://AgentVault/a/b"));
    let annotations: serde_json::Map<_, _> = (0..80_000).map(annotation).collect();
    json!({ "id": "c", "annotations": annotations }).to_string().into_bytes()
}

/// crun and youki start a hook's timeout after they have written the state: the hook needs its own timeout.
pub(super) fn input_that_stalls_ends(scene: &mut Scene) {
    let victim = Victim::new(|_| ());
    let state = victim.state().to_string();
    while scene.tally.rounds < scene.rounds() {
        let mut hooks: Vec<Hook> = (0..WAITING)
            .map(|number| {
                let mut hook = Hook::spawn(scene.command().stdin(Stdio::piped()));
                let begin = state.len() * (number % 5) / 4;
                hook.child.stdin.as_mut().unwrap().write_all(&state.as_bytes()[..begin]).unwrap();
                hook
            })
            .collect();
        // Sending single bytes does not extend the timeout.
        for _ in 0..3 {
            thread::sleep(Duration::from_secs(1));
            hooks.iter_mut().for_each(|hook| drop(hook.child.stdin.as_mut().unwrap().write(b" ")));
        }
        for hook in hooks {
            let ended = hook.end();
            assert_eq!(ended.status.code(), Some(65), "{ended:?}");
            assert!(ended.stderr.contains("cannot read the state: "), "{ended:?}");
            scene.judge(&victim, &ended);
        }
    }
}

/// Error messages have at most two lines, independent of the content of the state, the spec and the items.
pub(super) fn hostile_input_results_in_two_short_lines(scene: &mut Scene) {
    // Of their own, through the broker: a title of two items is refused, whatever they hold.
    let column = if scene.broker { "broker" } else { "hook" };
    let titles: Vec<String> = (0..50).map(|number| format!("hostile-{column}-{number}")).collect();
    for title in &titles {
        let value = match fastrand::u8(..4) {
            0 => some_text(20_000),
            1 => format!("sealed:v1 {}", some_text(20_000)),
            2 => format!("sealed:v1 local-kek:{} {}", some_text(5000), some_text(5000)),
            _ => format!("sealed:{} x y", some_text(9000)),
        };
        scene.world.stand_in.create_item(AGENT_VAULT, title, &[("", "value", &value)]);
    }
    for round in 0..scene.rounds() {
        let victim = Victim::new(|_| ());
        let mut state = victim.state();
        match round % 8 {
            0 => state["annotations"][format!("run.secrets/{}", some_text(3000))] = some_text(100_000).into(),
            1 => state["annotations"]["run.secrets/db"] = format!("op://{}", some_text(100_000)).into(),
            2 => state["annotations"]["run.secrets.owner"] = some_text(100_000).into(),
            3 => state["bundle"] = format!("/{}", some_text(3000)).into(),
            // A string with a NUL is refused, whichever field it is in.
            4 => state["id"] = some_text(50_000).replace('\0', "").into(),
            5 => {
                let spec = json!({ "root": { "path": "rootfs" }, "process": { "user": { "uid": 0, "gid": 0 } },
                    "linux": { "maskedPaths": [format!("/run/secrets/{}", some_text(20_000))] } });
                fs::write(victim.bundle().join("config.json"), spec.to_string()).unwrap();
            }
            6 => fs::write(victim.bundle().join("config.json"), json!({ "root": some_text(20_000) }).to_string())
                .unwrap(),
            _ => {
                let title = &titles[fastrand::usize(..titles.len())];
                state["annotations"]["run.secrets/db"] = format!("op://AgentVault/{title}/value").into();
            }
        }
        let ended = scene.meanwhile(state, Hook::end);
        assert!(!ended.stderr.contains(" are titled "), "{}", ended.stderr);
        assert!(ended.stderr.len() <= OUTPUT_BYTES_MAX, "{} bytes", ended.stderr.len());
        assert!(ended.stderr.lines().count() <= 2, "{}", ended.stderr);
        assert!(!ended.stderr.lines().any(|line| line.contains(char::is_control)), "{}", ended.stderr);
        assert_eq!(ended.status.success(), round % 8 == 4, "{ended:?}");
        scene.judge(&victim, &ended);
    }
}

/// Random text of up to this number of characters, with control characters.
fn some_text(characters_max: usize) -> String {
    let some =
        ["a", "7", "/", "\n", "\r", "\t", "\u{1b}[31m", "\u{9b}2J", "\u{7f}", "\0", "é", "\u{202e}", "\"", "{}", "%s"];
    (0..fastrand::usize(1..characters_max)).map(|_| some[fastrand::usize(..some.len())]).collect()
}

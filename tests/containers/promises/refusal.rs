//! What happens when the hook fails: the container does not start, and somebody hears why.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::container::Container;
use crate::engine::Engine;
use crate::support::{sandbox, search};
use crate::user;
use crate::world::World;

pub(super) fn a_failing_hook_stops_the_container_and_says_why(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    let title = container.title("no-item");
    container.ask("db", &title, "password");
    let refused = container.refused(engine);
    let message =
        format!(r#"cannot resolve "db": op://AgentVault/{title}/password: no item "{title}" in vault "AgentVault""#);
    assert_eq!((refused.code, &*refused.message), (66, &*message));

    // The person at the engine: runc repeats the hook's words, crun only its exit code.
    let said = &refused.ended.stderr;
    if engine.is_crun() {
        assert!(said.contains("error executing hook") && said.contains("(exit code: 66)"), "{said}");
    } else {
        assert!(said.contains("oci-secrets-hook: error: container ") && said.contains("no item"), "{said}");
        assert!(said.contains("oci-secrets-hook: hint: names are case-sensitive"), "{said}");
    }
    // The system log has the words in any case.
    let lines = world.journal.lines(&title);
    let error = lines.iter().find(|line| line.priority == "3").unwrap();
    assert_eq!(error.program, "oci-secrets-hook");
    assert!(error.message.starts_with("error: container ") && error.message.ends_with(&message), "{error:?}");
}

/// Also with crun, which discards it, and for the user whose engine is rootless.
pub(super) fn explain_prints_what_the_hook_printed(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    let title = container.title("no-item");
    container.ask("db", &title, "password");
    let refused = container.refused(engine);
    let records = world.journal.records(&container.name);
    let id = records.last().unwrap()["container"].as_str().unwrap();
    let mut explain = match engine.is_rootless() {
        true => user::program(sandbox::OCI_SECRETS),
        false => Command::new(sandbox::OCI_SECRETS),
    };
    let output = explain.args(["explain", "--last", id]).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().collect();
    assert!(output.status.success() && lines.len() == 3, "{output:?}");
    assert!(lines[0].starts_with(&format!("container {id}")) && lines[0].ends_with("with exit code 66"), "{text}");
    assert_eq!(lines[1], format!("error: {}", refused.message));
    assert_eq!(lines[0].contains("(podman)"), engine.is_podman(), "{text}");
    assert_eq!(lines[0].contains("(Docker)"), engine == Engine::Docker, "{text}");
}

pub(super) fn a_killed_hook_stops_the_container(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    let title = format!("slow-20000-once-{}", container.name);
    container.ask("db", &title, "password");
    let marks = container.marks();
    let settings = container.settings_path();
    let ended = thread::scope(|scope| {
        let run = scope.spawn(|| container.run(engine, "touch /marks/ran"));
        let hook = loop {
            let hooks = search::pids(&["oci-secrets-hook", settings.to_str().unwrap()]);
            let asked = world.stand_in.requests().iter().any(|request| request.to_string().contains(&title));
            match hooks[..] {
                [hook] if asked => break hook,
                _ => assert!(!run.is_finished(), "it ended by itself"),
            }
            thread::sleep(Duration::from_millis(20));
        };
        kill_process(Pid::from_raw(hook.cast_signed()).unwrap(), Signal::KILL).unwrap();
        run.join().unwrap()
    });
    assert!(!ended.status.success() && !marks.join("ran").exists(), "{ended:?}");
}

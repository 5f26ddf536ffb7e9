//! The examples of applications that learn of updates, as first processes of containers.

use std::path::Path;
use std::process::Command;

use crate::scene::{ITEMS, Scene, wait_until};
use crate::support::broker::Broker;
use crate::support::container::Container;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/examples/updates");

#[test]
fn an_application_in_sh_python_or_c_reads_each_new_set() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let program = scene.world.host.path("on-signal");
    let source = Path::new(EXAMPLES).join("on-signal.c");
    let compiled = Command::new("cc").args(["-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(source).status();
    assert!(compiled.unwrap().success());
    let commands = [
        format!("sh {EXAMPLES}/on-signal.sh $PWD/rootfs/run/secrets"),
        format!("python3 {EXAMPLES}/by-device.py $PWD/rootfs/run/secrets"),
        format!("{} $PWD/rootfs/run/secrets {} {}", program.display(), ITEMS[0], ITEMS[1]),
    ];
    let containers = commands.map(|command| {
        let container = Container::waiting_to_run(&command);
        let signal = ("run.secrets.on-update", "signal:HUP");
        let annotations: &[_] = if command.starts_with("python3") { &[] } else { &[signal] };
        scene.start(&broker, &container, annotations);
        container.run();
        container
    });
    // The length of the pair distinguishes the sets.
    for (loads, number) in [0, 10, 100].into_iter().enumerate() {
        scene.rotate(number);
        assert_eq!(scene.refresh(&broker).0, 0);
        let expected = format!("loaded {} bytes", 2 * scene.secret(number).len());
        for (container, example) in containers.iter().zip(["sh", "python", "c"]) {
            wait_until(example, || {
                let lines = container.printed();
                lines.len() == loads + 1 && lines.last() == Some(&expected)
            });
        }
    }
}

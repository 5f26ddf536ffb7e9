//! What `ctr` passes on.

use std::process::Stdio;

use crate::container::Container;
use crate::engine::{Engine, containerd};
use crate::world::World;

pub(super) fn annotations_of_the_command_line_ask(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.write(engine, "");
    let runtime = containerd::runtime(&container);
    let mut command = engine.command(&["run", "--rm", "--rootfs", "--env", "PATH=/bin", "--runc-binary"]);
    command.arg(runtime);
    for (key, value) in &container.annotations {
        command.args(["--annotation", &format!("{key}={value}")]);
    }
    command.arg(container.rootfs()).arg(&container.name).args(["cat", "/run/secrets/db"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hunter2", "{output:?}");
}

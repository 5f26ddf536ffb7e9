//! New values while a container runs.

use std::fs;
use std::path::Path;

use crate::container::Container;
use crate::engine::Engine;
use crate::spec::Twist;
use crate::support::sandbox;
use crate::world::World;

const FILES: [&str; 2] = ["first", "second"];

/// How many updates a container gets; the environment can ask for more, as it does for a release.
const UPDATES: usize = 3;

/// Reads both files again and again through one directory, and a mount below it by its path, and ends with the last set, or with one that
/// is mixed or not whole.
const READER: &str = r#"echo ready
while :; do
    cd / && cd /run/secrets || exit 1
    a= b= c=
    read -r a <first; read -r b <second
    [ -n "$a" ] && [ "$a" = "$b" ] || { echo "mixed: $a $b"; exit 1; }
    if [ -n "$OWN" ]; then read -r c </run/secrets/own/file; [ "$c" = own ] || { echo "not carried over"; exit 1; }; fi
    [ "$a" != last ] || exit 0
done"#;

pub(super) fn a_running_container_gets_each_new_set_whole(world: &World, engine: Engine) {
    let container = Container::new(world);
    match sandbox::kernel() >= (6, 5) {
        true => shows_each_set(container, engine, READER),
        false => is_refused(container, engine),
    }
}

pub(super) fn a_container_with_mounts_a_read_only_root_and_a_user_namespace_does_too(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    let own = container.directory.join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("file"), "own\n").unwrap();
    fs::create_dir_all(container.rootfs().join("run/secrets")).unwrap();
    container.twists.extend([Twist::ReadOnlyRoot, Twist::Bind(own, "/run/secrets/own")]);
    if !engine.is_rootless() {
        container.twists.push(Twist::UserNamespace);
    }
    match sandbox::kernel() >= (6, 15) {
        true => shows_each_set(container, engine, &format!("OWN=1\n{READER}")),
        false => is_refused(container, engine),
    }
}

fn shows_each_set(mut container: Container<'_>, engine: Engine, script: &str) {
    let items = request(&mut container);
    let running = container.start(engine, script);
    let updates = std::env::var("OCI_SECRETS_TEST_SWAPS").ok().and_then(|count| count.parse().ok()).unwrap_or(UPDATES);
    for number in 1..=updates {
        let value = if number == updates { "last".to_owned() } else { number.to_string() };
        for (item, file) in items.iter().zip(FILES) {
            container.world.rotate(item, &container.title(file), "password", value.as_bytes());
        }
        container.refresh();
    }
    assert_eq!(running.end().text(), "");
    let records = container.world.journal.records(&container.name);
    let decisions: Vec<_> = records.iter().map(|record| record["decision"].as_str().unwrap()).collect();
    assert_eq!(decisions[0], "delivered");
    assert_eq!(decisions[1..], vec!["updated"; updates]);
}

fn is_refused(mut container: Container<'_>, engine: Engine) {
    request(&mut container);
    let oldest = if sandbox::kernel() < (6, 5) { "6.5" } else { "6.15" };
    container.refused_by_kernel(engine, &format!(": it needs Linux {oldest}"));
}

/// Requests both files with updates, and returns the ids of their items.
fn request(container: &mut Container<'_>) -> [String; 2] {
    container.annotate("run.secrets.update", "live");
    let directory = Path::new(sandbox::DIRECTORY).join(format!("updates-{:016x}", fastrand::u64(..)));
    container.settings = Some(format!("[updates]\nperiod = \"24h\"\ndirectory = {directory:?}\n"));
    FILES.map(|file| container.secret(file, b"start"))
}

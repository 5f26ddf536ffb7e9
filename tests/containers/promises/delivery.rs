//! What a container finds.

use std::fs;

use crate::container::Container;
use crate::engine::Engine;
use crate::support::sandbox;
use crate::world::World;

pub(super) fn files_have_their_content_owner_and_mode(world: &World, engine: Engine) {
    for user in [(0, 0), (1000, 1001)] {
        let mut container = Container::new(world);
        container.user = user;
        container.secret("db-password", b"hunter2");
        container.secret("key.pem", b"-----BEGIN\n\0\xff no text\n\n");
        let ended =
            container.run(engine, "cd /run/secrets && stat -c '%a %u:%g %s %n' . * && ls -A && cat db-password");
        let (uid, gid) = user;
        let expected = format!("555 0:0 80 .\n400 {uid}:{gid} 7 db-password\n400 {uid}:{gid} 23 key.pem\n");
        assert_eq!(ended.text(), format!("{expected}db-password\nkey.pem\nhunter2"));
        let ended = container.run(engine, "cat /run/secrets/key.pem");
        assert!(ended.status.success());
        assert_eq!(ended.stdout, b"-----BEGIN\n\0\xff no text\n\n");
    }
}

pub(super) fn nobody_can_change_the_files(world: &World, engine: Engine) {
    for user in [(0, 0), (1000, 1001)] {
        let mut container = Container::new(world);
        container.user = user;
        container.secret("db", b"hunter2");
        let attempts = ["echo x >db", "echo x >>db", "touch new", "mkdir new", "chmod 600 db", "rm -f db", "mv db new"];
        let script = attempts.map(|attempt| format!("(cd /run/secrets; {attempt}) 2>&1 && echo 'done: {attempt}'"));
        let ended = container.run(engine, &format!("{}; cat /run/secrets/db", script.join("; ")));
        let lines: Vec<&str> = ended.text().lines().collect();
        let (secret, refusals) = lines.split_last().unwrap();
        assert_eq!((*secret, refusals.len()), ("hunter2", attempts.len()), "{lines:?}");
        assert!(refusals.iter().all(|refusal| refusal.ends_with("Read-only file system")), "{refusals:?}");
    }
}

pub(super) fn the_mount_is_read_only_and_never_swapped(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    let ended = container.run(engine, "grep ' /run/secrets ' /proc/self/mounts; grep -c secrets /proc/self/mountinfo");
    let [mount, count] = ended.text().lines().collect::<Vec<_>>()[..] else { panic!("{ended:?}") };
    assert_eq!(count, "1");
    let fields: Vec<&str> = mount.split(' ').collect();
    assert_eq!(fields[2], "tmpfs");
    let has = |option| fields[3].split(',').any(|found| found == option);
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(has(option), "no {option}: {mount}");
    }
    // No user namespace but the first may keep memory from being swapped out.
    let may_keep_out_of_swap = !engine.is_rootless() || container.broker;
    assert_eq!(has("noswap"), sandbox::kernel_has_noswap() && may_keep_out_of_swap, "{mount}");
}

pub(super) fn noswap_may_be_required(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.settings = Some("[deliver]\nnoswap = \"require\"\n".to_owned());
    if sandbox::kernel_has_noswap() {
        assert_eq!(container.run(engine, "cat /run/secrets/db").text(), "hunter2");
    } else {
        container.refused_by_kernel(engine, ": noswap needs Linux 6.4 and a hook outside of user namespaces");
    }
}

pub(super) fn a_file_of_300_kib_arrives_whole(world: &World, engine: Engine) {
    let secret: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(300 * 1024).collect();
    let mut container = Container::new(world);
    container.secret("keystore", &secret);
    let ended = container.run(engine, "cat /run/secrets/keystore");
    assert!(ended.status.success() && ended.stdout == secret, "{}: {} bytes", ended.stderr, ended.stdout.len());
}

pub(super) fn items_and_fields_become_one_directory(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    let title = container.title("database");
    world.store(&title, &[("username", b"app"), ("password", b"hunter2")]);
    container.ask("db-user", &title, "username");
    container.ask("db-password", &title, "password");
    container.ask("db-password-again", &title, "password");
    container.secret("token", b"t0k3n");
    let ended = container.run(engine, "cd /run/secrets && for file in *; do echo $file=$(cat $file); done");
    assert_eq!(ended.text(), "db-password=hunter2\ndb-password-again=hunter2\ndb-user=app\ntoken=t0k3n\n");
}

pub(super) fn a_template_becomes_one_file(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    let title = container.title("database");
    world.store(&title, &[("username", b"app"), ("password", b"hunter2 {{ op://AgentVault/x/y }}")]);
    let reference = |field: &str| format!("{{{{ op://AgentVault/{title}/{field} }}}}");
    let pgpass =
        format!("db:5432:app:{}:{}\n# {}", reference("username"), reference("password"), reference("username"));
    container.annotate("run.secrets/pgpass", &pgpass);
    container.ask("db-user", &title, "username");
    let ended = container.run(engine, "cd /run/secrets && ls && stat -c '%a %u:%g' pgpass && cat pgpass");
    let content = "db:5432:app:app:hunter2 {{ op://AgentVault/x/y }}\n# app";
    assert_eq!(ended.text(), format!("db-user\npgpass\n400 1000:1001\n{content}"));
}

pub(super) fn an_optional_file_may_be_missing(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.ask("hint", &container.title("db"), "no-field");
    container.annotate("run.secrets.optional", "hint");
    assert_eq!(container.run(engine, "ls -A /run/secrets").text(), "db\n");
    // If nothing else is asked for, there is a directory with nothing in it.
    let mut container = Container::new(world);
    container.ask("license", &container.title("no-item"), "key");
    container.annotate("run.secrets.optional", "license");
    assert_eq!(container.run(engine, "ls -A /run/secrets").text(), "");
}

pub(super) fn there_may_be_100_kib_of_annotations(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    for number in 0..100 {
        container.annotate(&format!("org.example.note-{number}"), &"note ".repeat(205));
    }
    assert_eq!(container.run(engine, "cat /run/secrets/db").text(), "hunter2");
}

pub(super) fn containers_at_the_same_time_get_only_their_own(world: &World, engine: Engine) {
    let mut red = Container::new(world);
    red.secret("red", b"rose");
    let mut blue = Container::new(world);
    blue.secret("blue", b"sky");
    let script = "echo ready; cat >/dev/null; cd /run/secrets && ls -A && cat *; grep -c secrets /proc/self/mountinfo";
    let (red, blue) = (red.start(engine, script), blue.start(engine, script));
    assert_eq!(red.end().text(), "red\nrose1\n");
    assert_eq!(blue.end().text(), "blue\nsky1\n");
}

pub(super) fn a_container_that_asks_for_nothing_starts_in_silence(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.annotate("org.example.title", "nothing");
    starts_in_silence(container, engine);
}

pub(super) fn a_sandbox_starts_in_silence(world: &World, engine: Engine) {
    for (key, value) in
        [("io.kubernetes.cri.container-type", "sandbox"), ("io.kubernetes.cri-o.ContainerType", "sandbox")]
    {
        let mut container = Container::new(world);
        container.ask("db", &container.title("db"), "password");
        container.annotate(key, value);
        starts_in_silence(container, engine);
    }
}

/// It reads nothing but the state: without settings, spec or network it would say the same.
fn starts_in_silence(mut container: Container<'_>, engine: Engine) {
    container.settings = None;
    let ended = container.run(engine, "grep -c secrets /proc/self/mountinfo; ls /run/secrets");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "0\n");
    assert!(!ended.stderr.contains("oci-secrets"), "{ended:?}");
    let asked = container.world.stand_in.requests();
    assert!(!asked.iter().any(|request| request["query"].as_str().unwrap().contains(&container.name)));
    assert!(container.world.journal.lines(&container.name).is_empty());
    assert!(!fs::exists(container.settings_path()).unwrap());
}

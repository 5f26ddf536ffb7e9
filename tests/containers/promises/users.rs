//! Whose the files are.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::container::Container;
use crate::engine::Engine;
use crate::spec::{MAPPED, Twist};
use crate::world::World;

const OWNER_ALLOWED: &str = r#"owner = "allow""#;
const OWNERS: &str = "stat -c %u:%g /run/secrets/*; cat /run/secrets/*";

pub(super) fn ids_are_mapped_into_a_user_namespace(world: &World, engine: Engine) {
    for (uid, gid) in [(0, 0), (1000, 1001)] {
        let mut container = Container::new(world);
        container.secret("db", b"hunter2");
        container.user = (uid, gid);
        container.twists.push(Twist::UserNamespace);
        let running = container.start(engine, &format!("{OWNERS}; echo; echo ready; cat"));
        let file = format!("/proc/{}/root/run/secrets/db", running.pid());
        let of_host = fs::metadata(file).unwrap();
        assert_eq!((of_host.uid(), of_host.gid()), (MAPPED.0 + uid, MAPPED.0 + gid));
        assert_eq!(running.printed, format!("{uid}:{gid}\nhunter2\n"));
        running.end();
    }
}

pub(super) fn a_user_namespace_may_have_a_read_only_root(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.twists.extend([Twist::UserNamespace, Twist::ReadOnlyRoot, Twist::Tmpfs("/run", "mode=755")]);
    assert_eq!(container.run(engine, OWNERS).text(), "1000:1001\nhunter2");
}

/// As in an image whose `/run` belongs to the user of its services.
pub(super) fn run_may_belong_to_another_user_of_the_container(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.twists.push(Twist::UserNamespace);
    fs::create_dir(container.rootfs().join("run")).unwrap();
    container.owner_of_run = Some(MAPPED.0 + 1000);
    assert_eq!(container.run(engine, OWNERS).text(), "1000:1001\nhunter2");
    let made = fs::metadata(container.rootfs().join("run/secrets")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode()), (MAPPED.0, MAPPED.0, 0o40_755));
}

/// The container's root could not create a directory there either. Podman itself creates a file there, and fails before the hook.
pub(super) fn a_run_of_a_user_without_an_id_is_refused(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.twists.push(Twist::UserNamespace);
    fs::create_dir(container.rootfs().join("run")).unwrap();
    container.owner_of_run = Some(1);
    let refused = container.refused(engine);
    let message = r#"mkdirat("/run/secrets"): Permission denied (EACCES)"#;
    assert_eq!((refused.code, &*refused.message), (77, message));
    assert!(!container.rootfs().join("run/secrets").exists());
}

pub(super) fn an_id_without_a_mapping_is_refused(world: &World, engine: Engine) {
    for (owner, what) in [("65536:0", "cannot map uid 65536"), ("0:65536", "cannot map gid 65536")] {
        let mut container = Container::new(world);
        container.secret("db", b"hunter2");
        container.twists.push(Twist::UserNamespace);
        container.annotate("run.secrets.owner", owner);
        container.settings = Some(OWNER_ALLOWED.to_owned());
        let refused = container.refused(engine);
        assert_eq!(refused.code, 65, "{}", refused.message);
        assert!(refused.message.starts_with(what), "{}", refused.message);
    }
}

pub(super) fn another_owner_needs_a_grant(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.user = (0, 0);
    container.annotate("run.secrets.owner", "33:34");
    container.settings = Some(OWNER_ALLOWED.to_owned());
    assert_eq!(container.run(engine, OWNERS).text(), "33:34\nhunter2");

    container.settings = Some(String::new());
    assert_eq!(container.refused(engine).code, 77);
}

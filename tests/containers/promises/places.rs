//! Whatever an image and a spec have at `/run/secrets`: the files are there, or the container does not start.

use std::fs::{self, Permissions, create_dir, create_dir_all};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::container::Container;
use crate::engine::Engine;
use crate::spec::Twist;
use crate::world::World;

pub(super) fn a_missing_run_is_made(world: &World, engine: Engine) {
    let container = container(world);
    delivers(&container, engine);
    let rootfs = container.rootfs();
    assert_eq!(fs::metadata(rootfs.join("run")).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_dir(rootfs.join("run/secrets")).unwrap().count(), 0);
}

pub(super) fn an_existing_run_is_used(world: &World, engine: Engine) {
    let container = container(world);
    create_dir(container.rootfs().join("run")).unwrap();
    fs::write(container.rootfs().join("run/image"), "").unwrap();
    delivers(&container, engine);
    assert!(container.rootfs().join("run/image").exists());
}

pub(super) fn existing_run_secrets_are_covered(world: &World, engine: Engine) {
    let container = container(world);
    create_dir_all(container.rootfs().join("run/secrets")).unwrap();
    fs::write(container.rootfs().join("run/secrets/of-the-image"), "").unwrap();
    delivers(&container, engine);
}

pub(super) fn var_run_may_lead_to_run(world: &World, engine: Engine) {
    let container = container(world);
    create_dir(container.rootfs().join("run")).unwrap();
    create_dir(container.rootfs().join("var")).unwrap();
    symlink("/run", container.rootfs().join("var/run")).unwrap();
    assert_eq!(container.run(engine, "cat /var/run/secrets/db").text(), "hunter2");
}

pub(super) fn the_root_may_be_read_only(world: &World, engine: Engine) {
    let mut container = container(world);
    container.twists.push(Twist::ReadOnlyRoot);
    container.user = (0, 0);
    delivers(&container, engine);
    let ended = container.run(engine, "touch /bin/x 2>&1; cat /run/secrets/db");
    assert_eq!(ended.text(), "touch: /bin/x: Read-only file system\nhunter2");
}

pub(super) fn the_spec_may_mount_a_tmpfs_at_run(world: &World, engine: Engine) {
    let mut container = container(world);
    container.twists.push(Twist::Tmpfs("/run", "rw"));
    delivers(&container, engine);
}

pub(super) fn the_spec_may_mount_a_read_only_tmpfs_at_run(world: &World, engine: Engine) {
    let mut container = container(world);
    container.twists.push(Twist::Tmpfs("/run", "ro"));
    delivers(&container, engine);
}

pub(super) fn a_read_only_tmpfs_at_run_is_refused(world: &World, engine: Engine) {
    let mut container = container(world);
    container.twists.push(Twist::Tmpfs("/run", "ro"));
    let refused = container.refused(engine);
    let message = "cannot make the container's /run/secrets: it is missing, and the filesystem is read-only";
    assert_eq!((refused.code, &*refused.message), (77, message));
}

pub(super) fn the_spec_may_mount_a_tmpfs_at_run_secrets(world: &World, engine: Engine) {
    // The second one is what Docker's --mount type=tmpfs,destination=/run/secrets,tmpfs-mode=0400 asks for.
    for option in ["rw", "mode=0400"] {
        let mut container = container(world);
        container.twists.push(Twist::Tmpfs("/run/secrets", option));
        delivers(&container, engine);
    }
}

pub(super) fn a_read_only_tmpfs_at_run_secrets_is_refused(world: &World, engine: Engine) {
    let mut container = container(world);
    container.twists.push(Twist::Tmpfs("/run/secrets", "ro"));
    let refused = container.refused(engine);
    let message = "refusing to deliver to /run/secrets: the spec mounts a read-only tmpfs at /run/secrets";
    assert_eq!((refused.code, &*refused.message), (77, message));
}

pub(super) fn a_masked_path_over_the_files_is_refused(world: &World, engine: Engine) {
    for path in ["/run", "/run/secrets", "/var/run/secrets/db"] {
        let mut container = container(world);
        container.twists.push(Twist::Masked(path));
        let refused = container.refused(engine);
        let message =
            format!("refusing to deliver to /run/secrets: linux.maskedPaths has {path}, which would hide the files");
        assert_eq!((refused.code, refused.message), (77, message));
    }
}

pub(super) fn a_masked_path_that_leads_to_the_files_is_refused(world: &World, engine: Engine) {
    let mut container = container(world);
    symlink("run", container.rootfs().join("elsewhere")).unwrap();
    container.twists.push(Twist::Masked("/elsewhere"));
    let refused = container.refused(engine);
    let message = "refusing to deliver to /run/secrets: linux.maskedPaths has /elsewhere, which would hide the files";
    assert_eq!((refused.code, &*refused.message), (77, message));
}

pub(super) fn a_volume_at_or_below_run_secrets_is_carried_over(world: &World, engine: Engine) {
    for at in ["/run/secrets", "/run/secrets/kubernetes.io/serviceaccount"] {
        let mut container = container(world);
        let volume = volume(&container);
        fs::write(volume.join("token"), "of the volume\n").unwrap();
        fs::set_permissions(volume.join("token"), Permissions::from_mode(0o644)).unwrap();
        container.twists.push(Twist::Bind(volume, at));
        let ended = container.run(engine, &format!("cat {at}/token /run/secrets/db"));
        assert_eq!(ended.text(), "of the volume\nhunter2", "{at}");
    }
}

pub(super) fn a_volume_in_the_place_of_a_file_is_refused(world: &World, engine: Engine) {
    let mut container = container(world);
    let volume = volume(&container);
    container.twists.push(Twist::Bind(volume, "/run/secrets/db"));
    let refused = container.refused(engine);
    let message = r#"refusing to deliver "db": the container has a /run/secrets/db of its own"#;
    assert_eq!((refused.code, &*refused.message), (65, message));
}

pub(super) fn a_symlink_in_a_volume_is_refused(world: &World, engine: Engine) {
    let mut container = container(world);
    let volume = volume(&container);
    symlink("elsewhere", volume.join("x")).unwrap();
    container.twists.push(Twist::Bind(volume, "/run/secrets"));
    let refused = container.refused(engine);
    let message = r#"refusing to hide the container's "/run/secrets/x": it is neither a file nor a directory"#;
    assert_eq!((refused.code, &*refused.message), (77, message));
}

pub(super) fn no_mount_namespace_is_refused(world: &World, engine: Engine) {
    let mut container = container(world);
    container.twists.push(Twist::NoMountNamespace);
    let refused = container.refused(engine);
    let message = "refusing to enter the container: it has no mount namespace of its own";
    assert_eq!((refused.code, &*refused.message), (77, message));
    // Here the runtime's mounts are those of the host.
    assert_eq!(refused.ended.stdout, b"");
    assert!(!Path::new("/run/secrets").exists());
}

pub(super) fn symlinks_of_the_image_stay_in_the_image(world: &World, engine: Engine) {
    let of_host = || (fs::read_dir("/srv").unwrap().count(), Path::new("/srv/secrets").exists());
    let before = of_host();
    for (link, target) in [("run", "/srv"), ("run", "../../../../../../srv"), ("run/secrets", "../../../../../../srv")]
    {
        let container = container(world);
        create_dir(container.rootfs().join("srv")).unwrap();
        let link = container.rootfs().join(link);
        create_dir_all(link.parent().unwrap()).unwrap();
        symlink(target, link).unwrap();
        delivers(&container, engine);
        assert_eq!(of_host(), before);
    }
}

/// A container that asks for one file.
fn container(world: &World) -> Container<'_> {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container
}

/// An empty directory that its container's user can list.
fn volume(container: &Container<'_>) -> PathBuf {
    let volume = container.directory.join("volume");
    create_dir(&volume).unwrap();
    fs::set_permissions(&volume, Permissions::from_mode(0o755)).unwrap();
    volume
}

fn delivers(container: &Container<'_>, engine: Engine) {
    let ended = container.run(engine, "ls -A /run/secrets/ && cat /run/secrets/db");
    assert_eq!(ended.text(), "db\nhunter2");
}

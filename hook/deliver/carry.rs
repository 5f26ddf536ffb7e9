//! What a container has of its own at and below its target, carried over into the delivery that covers it.
//!
//! | of the container's own | becomes |
//! |---|---|
//! | a mount below the target | the same mount, moved with its flags, its submounts and what the runtime still does to it |
//! | a file or directory in what is mounted at the target | a read-only bind mount |
//! | an empty tmpfs at the target | covered |
//! | a file or directory of the image's | hidden, as by any mount |
//!
//! A mount is moved and not copied because crun makes its mounts read-only after the hooks have run, by descriptor: a copy
//! would stay writable. Of several mounts at one place the topmost is carried, which alone can be seen.
//!
//! A bind mount stays with its file when the host puts a new one in the place. That is the only way in which a volume of
//! Kubernetes' ever changes, and its entries are symlinks: a symlink is refused, lest such a volume go stale unnoticed.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, openat};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount_remount, move_mount, open_tree};

use super::placeholders::Placeholders;
use super::site::{Site, SiteError, inside};
use super::{TARGET, target};
use crate::container::{Process, Procfs, ProcfsError};
use crate::errno::{SyscallError, failed};
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};

/// The most mounts and entries that are carried over. Each takes a descriptor.
const CARRIED_MAX: usize = 128;

/// What a container has of its own at and below its target, by descriptor.
#[derive(Debug, Default)]
pub struct Carried {
    /// The mount that was mounted at the target, or that the target lay on; `None` if there was no target.
    covered: Option<u64>,
    /// Sorted by path: what lies inside of another comes after it.
    trees: Vec<Tree>,
}

/// A mount that gets a place in the delivery.
#[derive(Debug)]
struct Tree {
    /// Its path below the target.
    path: PathBuf,
    mount: OwnedFd,
    id: u64,
    is_directory: bool,
    /// Whether it is a new bind mount, and not one of the container's own.
    is_bind: bool,
}

impl Carried {
    /// Finds what a container that is being created has at and below `/run/secrets`. Nothing changes by it.
    ///
    /// # Errors
    /// When a delivery is there already, when the image stands in the way, when something cannot be carried over, or when the
    /// kernel refuses.
    pub fn find(container: &Process, rootfs: &Path) -> Result<Carried, CarryError> {
        inside(container, rootfs, |inside| match Site::find(inside)? {
            Some(site) => Carried::find_at(&site),
            None => Ok(Carried::default()),
        })
    }

    fn find_at(site: &Site<'_>) -> Result<Carried, CarryError> {
        if site.is_delivered()? {
            return Err(CarryError::Delivered);
        }
        let points = mount_points(site);
        let mut trees =
            points.iter().take(CARRIED_MAX + 1).map(|point| open(site, point)).collect::<Result<Vec<_>, _>>()?;
        if site.is_occupied() {
            bind_entries(site, &mut trees)?;
        }
        if trees.len() > CARRIED_MAX {
            return Err(CarryError::TooMany);
        }
        trees.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Ok(Carried { covered: Some(site.mount.id), trees })
    }

    /// The empty files and directories on which the mounts will be mounted.
    pub fn placeholders(&self) -> Placeholders {
        let mut placeholders = Placeholders::default();
        let paths = outermost(self.trees.iter().map(|tree| tree.path.as_path()).collect());
        for tree in self.trees.iter().filter(|tree| paths.binary_search(&tree.path.as_path()).is_ok()) {
            placeholders.insert(&tree.path, tree.is_directory);
        }
        placeholders
    }

    /// Refuses a site where since [`Carried::find`] something was mounted or unmounted.
    pub(super) fn require_unchanged(&self, site: &Site<'_>) -> Result<(), CarryError> {
        let found = mount_points(site);
        let own = self.trees.iter().filter(|tree| !tree.is_bind);
        let is_new = site.is_occupied() && self.covered != Some(site.mount.id);
        if is_new || !own.clone().map(|tree| tree.path.as_path()).eq(found) {
            return Err(CarryError::Changed);
        }
        for tree in own {
            let same = open(site, &tree.path)?.id == tree.id;
            same.then_some(()).ok_or(CarryError::Changed)?;
        }
        Ok(())
    }

    /// Mounts everything on its placeholder in a delivery that is attached.
    pub(super) fn carry_over(&self, delivery: BorrowedFd<'_>) -> Result<(), CarryError> {
        for tree in &self.trees {
            tree.mount_below(delivery)?;
            if tree.is_bind {
                make_read_only(delivery, &tree.path)?;
            }
        }
        Ok(())
    }

    /// Checks that everything is found in the delivery.
    pub(super) fn verify(&self, procfs: &Procfs, delivery: BorrowedFd<'_>) -> Result<(), CarryError> {
        for tree in &self.trees {
            if procfs.mount_id(open_below(delivery, &tree.path)?)? != tree.id {
                return Err(CarryError::NotInPlace { path: tree.path.clone() });
            }
        }
        Ok(())
    }

    /// Moves the container's own mounts back from a delivery, as far as they are there.
    pub(super) fn put_back(&self, site: &Site<'_>) -> Result<(), CarryError> {
        for tree in self.trees.iter().filter(|tree| !tree.is_bind) {
            if site.procfs.mount_id(open_below(site.target.as_fd(), &tree.path)?)? != tree.id {
                tree.mount_below(site.target.as_fd())?;
            }
        }
        Ok(())
    }
}

impl Tree {
    fn mount_below(&self, directory: BorrowedFd<'_>) -> Result<(), CarryError> {
        let place = open_below(directory, &self.path)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(&self.mount, "", place, "", flags).map_err(failed(call("move_mount", &self.path)))?)
    }
}

/// Where below the target something is mounted, as paths below it, in order. What such a mount hides or holds is left out.
fn mount_points<'a>(site: &'a Site<'_>) -> Vec<&'a Path> {
    let mounts = site.mounts.iter().filter(|mount| mount.parent == site.mount.id);
    let below = mounts.filter_map(|mount| mount.point.strip_prefix(&site.path).ok());
    outermost(below.filter(|point| !point.as_os_str().is_empty()).collect())
}

/// The paths, in order, without those that are or lie below another one.
pub(super) fn outermost(mut paths: Vec<&Path>) -> Vec<&Path> {
    paths.sort_unstable();
    paths.dedup_by(|path, previous| path.starts_with(previous));
    paths
}

/// Takes hold of the topmost mount at a mount point below the target.
fn open(site: &Site<'_>, point: &Path) -> Result<Tree, CarryError> {
    // The kernel moves nothing away from a mount that announces its mounts to others.
    if site.mount.peer_group.is_some() {
        return Err(CarryError::Shared { path: point.to_owned() });
    }
    let mount = open_below(site.target.as_fd(), point)?;
    let id = site.procfs.mount_id(&mount)?;
    if site.mounts.get(id).is_none_or(|mount| mount.point != site.path.join(point)) {
        return Err(CarryError::Changed);
    }
    let is_directory = file_type(&mount)?.is_dir();
    Ok(Tree { path: point.to_owned(), mount, id, is_directory, is_bind: false })
}

/// Makes a bind mount, still without a path, of every file and directory in what is mounted at the target.
fn bind_entries(site: &Site<'_>, trees: &mut Vec<Tree>) -> Result<(), CarryError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(&site.target, ".", flags, Mode::empty()).map_err(failed(format!(r#"open("{TARGET}")"#)))?;
    let entries = Dir::new(directory).map_err(failed(format!(r#"open("{TARGET}")"#)))?;
    for entry in entries {
        let entry = entry.map_err(failed(format!(r#"getdents("{TARGET}")"#)))?;
        let name = Path::new(OsStr::from_bytes(entry.file_name().to_bytes()));
        let is_carried = trees.iter().any(|tree| tree.path == name);
        if is_carried || name == Path::new(".") || name == Path::new("..") {
            continue;
        }
        if trees.len() == CARRIED_MAX {
            return Err(CarryError::TooMany);
        }
        trees.push(bind(site, name)?);
    }
    Ok(())
}

fn bind(site: &Site<'_>, name: &Path) -> Result<Tree, CarryError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let mount = open_tree(&site.target, name, flags).map_err(failed(call("open_tree", name)))?;
    let id = site.procfs.mount_id(&mount)?;
    let is_directory = match file_type(&mount)? {
        FileType::Directory => true,
        FileType::RegularFile => false,
        _ => return Err(CarryError::Special { path: name.to_owned() }),
    };
    Ok(Tree { path: name.to_owned(), mount, id, is_directory, is_bind: true })
}

/// Makes a bind mount read-only, nosuid, nodev and noexec: what the runtime still wanted to do to the mount that it was made of
/// will not reach it. The name is one of a frozen tmpfs, and leads nowhere else.
fn make_read_only(delivery: BorrowedFd<'_>, name: &Path) -> Result<(), SyscallError> {
    rustix::process::fchdir(delivery).map_err(failed("fchdir(tmpfs)"))?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(name, flags, "").map_err(failed(call("mount", name)))
}

fn open_below(directory: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, SyscallError> {
    target::open_below(directory, path).map_err(failed(call("openat2", path)))
}

fn file_type(mount: &OwnedFd) -> Result<FileType, SyscallError> {
    let stat = fstat(mount).map_err(failed("fstat"))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn call(name: &str, path: &Path) -> String {
    format!("{name}({})", Excerpt(&in_container(path)))
}

/// The path as the container spells it.
fn in_container(path: &Path) -> String {
    Path::new(TARGET).join(path).to_string_lossy().into_owned()
}

/// Why something cannot be carried over.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum CarryError {
    /// The container has no site for a delivery.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The hook was called before for this start.
    #[error("refusing to deliver to the container's {TARGET}: it has a delivery already")]
    Delivered,
    /// The mount below the target lies on a shared mount.
    #[error("cannot carry over the container's {}: it is mounted on a shared mount", Excerpt(&in_container(.path)))]
    Shared { path: PathBuf },
    /// What is mounted at the target holds something that is no file or directory.
    #[error("refusing to hide the container's {}: it is neither a file nor a directory", Excerpt(&in_container(.path)))]
    Special { path: PathBuf },
    /// More entries than the limit.
    #[error("refusing to hide what is mounted at the container's {TARGET}: more than {CARRIED_MAX} entries")]
    TooMany,
    /// Something was mounted or unmounted between the search and the delivery.
    #[error("refusing to deliver to the container's {TARGET}: what is mounted there has changed")]
    Changed,
    /// Something else is in its place after attaching.
    #[error("refusing to start the container: after attaching, {} is not what was there", Excerpt(&in_container(.path)))]
    NotInPlace { path: PathBuf },
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// `/proc` did not answer.
    #[error(transparent)]
    Procfs(#[from] ProcfsError),
}

impl Fault for CarryError {
    fn class(&self) -> Class {
        match self {
            CarryError::Site(error) => error.class(),
            CarryError::Delivered
            | CarryError::Shared { .. }
            | CarryError::Special { .. }
            | CarryError::TooMany
            | CarryError::Changed
            | CarryError::NotInPlace { .. } => Class::NotPermitted,
            CarryError::Syscall(_) | CarryError::Procfs(_) => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            CarryError::Site(error) => error.hint(),
            CarryError::Delivered => {
                Some("call the hook once: by hooks.d, a base spec, a device, a plugin or the wrapper".into())
            }
            CarryError::Shared { .. } => {
                Some("leave rootfsPropagation out of the spec, or make it private or slave".into())
            }
            CarryError::Special { .. } | CarryError::TooMany => {
                Some("leave the mount out, or give it another place than /run/secrets".into())
            }
            CarryError::Syscall(error) => error.hint(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::testing::{Container, NOTHING, attach, frozen_for, is_root};
    use crate::deliver::{AttachError, TmpfsError};
    use std::collections::BTreeSet;
    use std::fs::{File, read_to_string, write};
    use std::io::ErrorKind;
    use std::os::unix::fs::MetadataExt;

    use nix::sched::{CloneFlags, unshare};

    /// The container's own mounts at and below the target as `mountinfo` lists them, without their parents.
    fn own_mounts(container: &Container) -> BTreeSet<String> {
        let target = format!("{}/run/secrets", container.rootfs().display());
        let mountinfo = read_to_string(container.proc("mountinfo")).unwrap();
        let fields = mountinfo.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let own =
            fields.filter(|fields| fields[4].starts_with(&target) && !fields.contains(&super::super::site::SOURCE));
        own.map(|fields| [&fields[..1], &fields[2..]].concat().join(" ")).collect()
    }

    fn find(container: &Container) -> Result<Carried, CarryError> {
        Carried::find(&container.process(), &container.rootfs())
    }

    fn mount_id(container: &Container, file: &str) -> u64 {
        Procfs::open().unwrap().mount_id(File::open(container.inside(file)).unwrap()).unwrap()
    }

    /// Attaches to a container whose mounts a script makes: a file must be in the same mount as before.
    fn moves(script: &str, file: &str) -> Container {
        carries(script, file, |before, after| before == after)
    }

    /// Attaches to a container whose mounts a script makes: a file must be there before and after with the content "own", and
    /// the container's own mounts must stay as they are.
    fn carries(script: &str, file: &str, mount_ids: fn(u64, u64) -> bool) -> Container {
        let container = Container::start(NOTHING, &format!("mkdir -p run/secrets src; echo own > src/f; {script}"));
        let (before, id) = (own_mounts(&container), mount_id(&container, file));
        assert_eq!(read_to_string(container.inside(file)).unwrap(), "own\n", "{script}");
        attach(&container).unwrap();
        assert!(mount_ids(id, mount_id(&container, file)), "{script}");
        assert!(own_mounts(&container).is_superset(&before), "{script}");
        assert_eq!(read_to_string(container.inside(file)).unwrap(), "own\n", "{script}");
        assert_eq!(read_to_string(container.inside("/run/secrets/db")).unwrap(), "hunter2");
        container
    }

    #[test]
    fn moves_mounts_below_the_target_with_their_flags() {
        if !is_root() {
            return;
        }
        let bind = "cd run/secrets; touch token; mount --bind ../../src/f token";
        let file = "/run/secrets/token";
        moves(bind, file);
        moves(&format!("{bind}; mount -o remount,bind,ro,nosuid,noexec,nodev,noatime token"), file);
        let container = moves(&format!("{bind}; mount -o remount,bind,ro token"), file);
        assert_eq!(write(container.inside(file), "").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);

        moves("mkdir 'run/secrets/a b'; mount --bind src 'run/secrets/a b'", "/run/secrets/a b/f");
        let nested =
            "mkdir -p run/secrets/a/b; mount -t tmpfs -o size=64k,noexec x run/secrets/a/b; cd run/secrets/a/b";
        let container = moves(&format!("{nested}; mkdir c d; mount --bind ../../../../src c"), "/run/secrets/a/b/c/f");
        write(container.inside("/run/secrets/a/b/new"), "").unwrap();
        let write = write(container.inside("/run/secrets/a/new"), "").unwrap_err();
        assert_eq!(write.kind(), ErrorKind::ReadOnlyFilesystem);
    }

    #[test]
    fn moves_the_topmost_mount_and_leaves_what_it_hides() {
        if !is_root() {
            return;
        }
        let stacked = "cd run/secrets; mkdir a; mount -t tmpfs lower a; mount --bind ../../src a";
        moves(stacked, "/run/secrets/a/f");
        let covered = "cd run/secrets; mkdir -p a/b; mount -t tmpfs lower a/b; mount --bind ../../src a";
        moves(covered, "/run/secrets/a/f");
    }

    #[test]
    fn moves_a_service_account_token_that_is_mounted_through_var_run() {
        if !is_root() {
            return;
        }
        let directory = "var/run/secrets/kubernetes.io/serviceaccount";
        let token = format!("mkdir -p var; ln -s ../run var/run; mkdir -p {directory}; mount --bind src {directory}");
        moves(&token, "/run/secrets/kubernetes.io/serviceaccount/f");
    }

    #[test]
    fn moves_mounts_out_of_a_directory_that_is_mounted_at_the_target() {
        if !is_root() {
            return;
        }
        let podman =
            "mkdir dir; mount --bind dir run/secrets; cd run/secrets; touch token; mount --bind ../../src/f token";
        let container = moves(podman, "/run/secrets/token");
        assert_eq!(container.inside("/run/secrets").read_dir().unwrap().count(), 2);
        moves("mount -t tmpfs x run/secrets; cd run/secrets; mkdir a; mount --bind ../../src a", "/run/secrets/a/f");
    }

    #[test]
    fn binds_the_files_and_directories_of_what_is_mounted_at_the_target() {
        if !is_root() {
            return;
        }
        let subscription = "mkdir -p dir/rhsm/ca dir/token; echo own > dir/rhsm/f; echo repo > dir/redhat.repo; \
            mount --bind dir run/secrets; mount --bind src run/secrets/rhsm/ca";
        let container = carries(subscription, "/run/secrets/rhsm/f", |before, after| before != after);
        assert_eq!(read_to_string(container.inside("/run/secrets/rhsm/ca/f")).unwrap(), "own\n");
        assert_eq!(read_to_string(container.inside("/run/secrets/redhat.repo")).unwrap(), "repo\n");
        assert_eq!(container.inside("/run/secrets").read_dir().unwrap().count(), 4);
        for file in ["redhat.repo", "rhsm/f"] {
            let write = write(container.inside(&format!("/run/secrets/{file}")), "").unwrap_err();
            assert_eq!(write.kind(), ErrorKind::ReadOnlyFilesystem);
            let options = rustix::fs::statvfs(container.inside(&format!("/run/secrets/{file}"))).unwrap().f_flag;
            let flags = rustix::fs::StatVfsMountFlags::NOEXEC | rustix::fs::StatVfsMountFlags::NOSUID;
            assert!(options.contains(flags | rustix::fs::StatVfsMountFlags::NODEV));
        }
        write(container.inside("/dir/rhsm/f"), "still writable").unwrap();
    }

    #[test]
    fn lets_the_containers_users_through_whatever_the_umask_is() {
        if !is_root() {
            return;
        }
        let script = "mkdir -p src run/secrets/a/b; echo own > src/f; mount --bind src run/secrets/a/b";
        let container = Container::start(NOTHING, script);
        // Of this thread alone, once it shares its umask with no other.
        let attached = std::thread::scope(|scope| {
            let umask = || {
                unshare(CloneFlags::CLONE_FS).unwrap();
                rustix::process::umask(Mode::RWXG | Mode::RWXO);
                attach(&container)
            };
            scope.spawn(umask).join().unwrap()
        });
        attached.unwrap();
        assert_eq!(container.inside("/run/secrets/a").metadata().unwrap().mode(), 0o40_555);
    }

    #[test]
    fn finds_the_delivery_of_another_call_of_the_hook() {
        if !is_root() {
            return;
        }
        let container = moves("touch run/secrets/token; mount --bind src/f run/secrets/token", "/run/secrets/token");
        assert!(matches!(find(&container), Err(CarryError::Delivered)));
        assert!(matches!(attach(&container), Err(AttachError::Carry(CarryError::Delivered))));
        assert_eq!(container.inside("/run/secrets").read_dir().unwrap().count(), 2);
        // Another tmpfs of the same source is covered like any other.
        let container = Container::start(NOTHING, "mkdir -p run/secrets; mount -t tmpfs oci-secrets run/secrets");
        attach(&container).unwrap();
    }

    #[test]
    fn refuses_a_delivery_that_another_call_made_meanwhile() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "true");
        let carried = find(&container).unwrap();
        let before = frozen_for(carried.placeholders()).unwrap();
        attach(&container).unwrap();
        let error = before.attach(&carried, &container.process(), &container.spec()).unwrap_err();
        assert!(matches!(error, AttachError::Carry(CarryError::Changed)), "{error:?}");
    }

    #[test]
    fn refuses_a_secret_by_the_name_of_what_the_container_has() {
        if !is_root() {
            return;
        }
        for own in ["touch db; mount --bind ../../src/f db", "mkdir -p db/a; mount -t tmpfs x db/a"] {
            let script = format!("mkdir -p run/secrets src; touch src/f; cd run/secrets; {own}");
            let carried = find(&Container::start(NOTHING, &script)).unwrap();
            let error = frozen_for(carried.placeholders()).unwrap_err();
            assert!(matches!(error, TmpfsError::Taken { .. }), "{error:?}");
            let message = "refusing to deliver \"db\": the container has a /run/secrets/db of its own";
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn refuses_what_it_cannot_carry_over() {
        if !is_root() {
            return;
        }
        let refusal = |script: &str| {
            let script = format!("mkdir -p run/secrets/a dir; {script}");
            find(&Container::start(NOTHING, &script)).unwrap_err()
        };
        let volume = refusal("ln -s ..data/token dir/token; mount --bind dir run/secrets");
        let message = "refusing to hide the container's \"/run/secrets/token\": it is neither a file nor a directory";
        assert_eq!(volume.to_string(), message);
        let shared = refusal("mount -t tmpfs x run/secrets/a; mount --make-shared .");
        let message = "cannot carry over the container's \"/run/secrets/a\": it is mounted on a shared mount";
        assert_eq!(shared.to_string(), message);
        let many = refusal("cd dir; touch $(seq 129); cd ..; mount --bind dir run/secrets");
        assert!(matches!(many, CarryError::TooMany));
    }

    #[test]
    fn refuses_a_container_whose_mounts_have_changed() {
        if !is_root() {
            return;
        }
        let one = "mkdir -p run/secrets/a run/secrets/b; mount -t tmpfs x run/secrets/a";
        let changes = [
            (one, "mount -t tmpfs x run/secrets/b"),
            (one, "mount -t tmpfs x run/secrets/a"),
            (one, "umount --lazy run/secrets/a"),
            ("mkdir -p run/secrets", "mount -t tmpfs x run/secrets"),
            ("true", "mkdir -p run/secrets; mount -t tmpfs x run/secrets"),
        ];
        for (script, change) in changes {
            let container = Container::start(NOTHING, script);
            let carried = find(&container).unwrap();
            let frozen = frozen_for(carried.placeholders()).unwrap();
            container.run(change);
            let before = own_mounts(&container);
            let error = frozen.attach(&carried, &container.process(), &container.spec()).unwrap_err();
            assert!(matches!(error, AttachError::Carry(CarryError::Changed)), "{change}: {error:?}");
            assert_eq!(own_mounts(&container), before);
        }
    }

    #[test]
    fn notices_when_something_else_is_in_its_place() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "mkdir -p run/secrets/a; mount -t tmpfs x run/secrets/a");
        let carried = find(&container).unwrap();
        attach(&container).unwrap();
        let process = container.process();
        let verify = || {
            inside(&process, &container.rootfs(), |inside| {
                let site = Site::make(inside)?;
                carried.verify(site.procfs, site.target.as_fd())
            })
        };
        verify().unwrap();
        container.run("mount -t tmpfs x run/secrets/a");
        let error = verify().unwrap_err();
        let message = "refusing to start the container: after attaching, \"/run/secrets/a\" is not what was there";
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn puts_everything_back_when_something_fails() {
        if !is_root() {
            return;
        }
        let script =
            "mkdir -p run/secrets/a run/secrets/b; mount -t tmpfs x run/secrets/a; mount -t tmpfs x run/secrets/b";
        let container = Container::start(NOTHING, script);
        let before = read_to_string(container.proc("mountinfo")).unwrap();
        let mut only_a = find(&container).unwrap();
        only_a.trees.truncate(1);
        let frozen = frozen_for(only_a.placeholders()).unwrap();
        let both = find(&container).unwrap();
        let error = frozen.attach(&both, &container.process(), &container.spec()).unwrap_err();
        assert_eq!(error.to_string(), r#"openat2("/run/secrets/b")"#);
        assert_eq!(read_to_string(container.proc("mountinfo")).unwrap(), before);
    }
}

//! The container's spec: a small one of our own, and what makes it special, as `config.json` and as podman's arguments say it.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::container::Container;

/// The ids of the host's that a container's user namespace begins at, and how many it has.
pub(crate) const MAPPED: (u32, u32) = (100_000, 65_536);

/// What is special about a container's spec.
pub(crate) enum Twist {
    /// The root filesystem is read-only.
    ReadOnlyRoot,
    /// A tmpfs at this path, with this option.
    Tmpfs(&'static str, &'static str),
    /// A directory of the host's at this path, writable.
    Bind(PathBuf, &'static str),
    /// A user namespace whose ids are [`MAPPED`].
    UserNamespace,
    /// A path that is hidden by the runtime.
    Masked(&'static str),
    /// An SELinux label for the container's mounts.
    MountLabel(&'static str),
    /// A mount as only Docker says it.
    DockerMount(&'static str),
    /// The container lives in the mount namespace of the runtime. Podman cannot say this.
    NoMountNamespace,
    /// The runtime moves the root filesystem to `/` instead of calling `pivot_root`, as on a ramdisk.
    NoPivot,
    /// Anything else that only a spec can say.
    Spec(Box<dyn Fn(&mut Value) + Send + Sync>),
    /// An option of `podman run`, which no spec can say.
    Podman(String),
}

/// The spec of a container that runs this script.
pub(crate) fn spec(container: &Container<'_>, script: &str) -> Value {
    let (uid, gid) = container.user;
    // What engines give to root; other users have no capabilities.
    let capabilities: &[&str] = match uid {
        0 => &["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"],
        _ => &[],
    };
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": uid, "gid": gid },
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs" },
        "hostname": "container",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
        ],
        "annotations": container.annotations,
        "hooks": { "createRuntime": [container.hook()["hook"]] },
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }] },
    });
    for twist in &container.twists {
        twist.apply(&mut spec);
    }
    spec
}

impl Twist {
    fn apply(&self, spec: &mut Value) {
        let mut mount = |mount| spec["mounts"].as_array_mut().unwrap().push(mount);
        match self {
            Twist::Tmpfs(at, option) => {
                mount(json!({ "destination": at, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", option] }));
            }
            Twist::Bind(from, at) => {
                mount(json!({ "destination": at, "type": "bind", "source": from, "options": ["rbind", "rw"] }));
            }
            Twist::ReadOnlyRoot => spec["root"]["readonly"] = true.into(),
            Twist::Podman(_) | Twist::DockerMount(_) | Twist::NoPivot => {}
            Twist::Spec(change) => change(spec),
            Twist::Masked(path) => spec["linux"]["maskedPaths"] = json!([path]),
            Twist::MountLabel(label) => spec["linux"]["mountLabel"] = json!(label),
            Twist::UserNamespace => {
                let map = json!([{ "containerID": 0, "hostID": MAPPED.0, "size": MAPPED.1 }]);
                spec["linux"]["uidMappings"] = map.clone();
                spec["linux"]["gidMappings"] = map;
                spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
            }
            Twist::NoMountNamespace => {
                spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "mount");
            }
        }
    }

    /// The same as arguments of `podman run`. Without root, ids are those of podman's own user namespace: 0 is the user, and
    /// the subordinate ids follow.
    pub(crate) fn podman_arguments(&self, is_rootless: bool) -> Vec<String> {
        let map = format!("0:{}:{}", if is_rootless { 1 } else { MAPPED.0 }, MAPPED.1);
        match self {
            Twist::ReadOnlyRoot => vec!["--read-only".into()],
            Twist::Tmpfs(at, option) => vec!["--tmpfs".into(), format!("{at}:{option}")],
            Twist::Bind(from, at) => vec!["--volume".into(), format!("{}:{at}:rbind,rw", from.display())],
            Twist::UserNamespace => vec!["--uidmap".into(), map.clone(), "--gidmap".into(), map],
            Twist::Masked(path) => vec!["--security-opt".into(), format!("mask={path}")],
            Twist::Podman(option) => vec![option.clone()],
            Twist::MountLabel(_)
            | Twist::NoMountNamespace
            | Twist::DockerMount(_)
            | Twist::NoPivot
            | Twist::Spec(_) => panic!("podman cannot say this"),
        }
    }

    /// The same as arguments of `docker run`.
    pub(crate) fn docker_arguments(&self) -> Vec<String> {
        match self {
            Twist::ReadOnlyRoot => vec!["--read-only".into()],
            Twist::Tmpfs(at, option) => vec!["--tmpfs".into(), format!("{at}:{option}")],
            Twist::Bind(from, at) => vec!["--volume".into(), format!("{}:{at}", from.display())],
            Twist::DockerMount(mount) => vec!["--mount".into(), (*mount).into()],
            _ => panic!("Docker cannot say this of one container"),
        }
    }
}

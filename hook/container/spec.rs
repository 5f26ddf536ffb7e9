//! The spec: the bundle's `config.json`, of which only a few fields are read.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Root, User};
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use super::{Hooks, Owner, null_is_empty};
use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::json;

/// The longest `config.json` that is read, in bytes.
pub const SPEC_BYTES_MAX: u64 = 16 << 20;

/// What a delivery needs to know of a container's spec.
///
/// Each field is decoded by oci-spec's own type and nothing else is decoded at all, so that a capability or a seccomp action
/// which is newer than oci-spec cannot stop a container.
///
/// See the [runtime specification](https://github.com/opencontainers/runtime-spec/blob/main/config.md).
#[derive(Debug)]
pub struct Spec {
    /// The root filesystem on the host, as an absolute path.
    pub rootfs: PathBuf,
    /// `process.user`, in the container's ids.
    pub user: Option<Owner>,
    /// The mounts, in their order.
    pub mounts: Vec<Mount>,
    /// `linux.mountLabel`: the SELinux context of the container's own filesystems.
    pub mount_label: Option<String>,
    /// Whether `linux.namespaces` has a mount namespace that is there already, of another container or of the host.
    pub joins_mounts: bool,
    /// `linux.maskedPaths`: what the runtime covers after the hooks have run.
    pub masked_paths: Vec<PathBuf>,
    /// `linux.readonlyPaths`: what the runtime mounts onto itself after the hooks have run.
    pub readonly_paths: Vec<PathBuf>,
    /// `hooks`.
    pub hooks: Hooks,
}

impl Spec {
    /// Reads `config.json` of a bundle, which must be an absolute path.
    ///
    /// # Errors
    /// When it is not a regular file of at most [`SPEC_BYTES_MAX`] bytes, not a spec, or names no root filesystem.
    pub fn load(bundle: &Path) -> Result<Spec, SpecError> {
        let path = bundle.join("config.json");
        let config: Config = match json::from_slice(&read_spec(&path)?) {
            Ok(config) => config,
            Err(source) => return Err(SpecError::Json { path, source }),
        };
        let root = config.root.map(|root| root.path().clone()).unwrap_or_default();
        if root.as_os_str().is_empty() {
            return Err(SpecError::NoRootfs { path });
        }
        let user = config.process.and_then(|process| process.user);
        let linux = config.linux.unwrap_or_default();
        Ok(Spec {
            rootfs: bundle.join(root),
            user: user.map(|user| Owner { uid: user.uid(), gid: user.gid() }),
            mounts: config.mounts,
            mount_label: linux.mount_label.filter(|label| !label.is_empty()),
            joins_mounts: linux.namespaces.iter().any(Namespace::is_mounts_of_others),
            masked_paths: linux.masked_paths,
            readonly_paths: linux.readonly_paths,
            hooks: config.hooks,
        })
    }
}

#[derive(Deserialize)]
struct Config {
    root: Option<Root>,
    process: Option<ProcessFields>,
    #[serde(default, deserialize_with = "null_is_empty")]
    mounts: Vec<Mount>,
    linux: Option<LinuxFields>,
    #[serde(default, deserialize_with = "null_is_empty")]
    hooks: Hooks,
}

#[derive(Deserialize)]
struct ProcessFields {
    user: Option<User>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LinuxFields {
    mount_label: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    namespaces: Vec<Namespace>,
    #[serde(default, deserialize_with = "null_is_empty")]
    masked_paths: Vec<PathBuf>,
    #[serde(default, deserialize_with = "null_is_empty")]
    readonly_paths: Vec<PathBuf>,
}

/// A namespace of whatever type.
#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<PathBuf>,
}

impl Namespace {
    fn is_mounts_of_others(&self) -> bool {
        self.kind == "mount" && self.path.as_ref().is_some_and(|path| !path.as_os_str().is_empty())
    }
}

/// Reads a `config.json` as it is.
///
/// # Errors
/// When it is not a regular file of at most [`SPEC_BYTES_MAX`] bytes.
pub fn read_spec(path: &Path) -> Result<Vec<u8>, SpecError> {
    let unreadable = |errno| SpecError::Read { path: path.to_owned(), errno };
    // Without NONBLOCK, opening a FIFO would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) if path == Path::new("/config.json") => return Err(SpecError::BundleIsRoot),
        opened => File::from(opened.map_err(|errno| unreadable(errno.into()))?),
    };
    if !file.metadata().map_err(|error| unreadable(error.into()))?.is_file() {
        return Err(SpecError::NotAFile { path: path.to_owned() });
    }
    let mut json = Vec::new();
    file.take(SPEC_BYTES_MAX + 1).read_to_end(&mut json).map_err(|error| unreadable(error.into()))?;
    if json.len() as u64 > SPEC_BYTES_MAX {
        return Err(SpecError::TooLong { path: path.to_owned() });
    }
    Ok(json)
}

/// Why a spec cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum SpecError {
    /// There is no `/config.json`: `/` is not a bundle.
    #[error("cannot read /config.json: there is none; crun before 1.27 may report \"/\" as the bundle")]
    BundleIsRoot,
    /// The file cannot be opened or read.
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// A directory, a FIFO, a device.
    #[error("refusing to read {}: it is not a regular file", .path.display())]
    NotAFile { path: PathBuf },
    /// A longer file than any container's spec.
    #[error("refusing to read {}: it is longer than {} MiB", .path.display(), SPEC_BYTES_MAX >> 20)]
    TooLong { path: PathBuf },
    /// Not JSON that every runtime reads alike, or a field of another type than the specification's.
    #[error("cannot parse {}", .path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    /// `root.path` is missing or empty.
    #[error("cannot use {}: it has no root.path", .path.display())]
    NoRootfs { path: PathBuf },
}

impl Fault for SpecError {
    fn class(&self) -> Class {
        Class::Data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(json: &str) -> Result<Spec, SpecError> {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join("config.json"), json).unwrap();
        let mut spec = Spec::load(bundle.path())?;
        if let Ok(inside) = spec.rootfs.strip_prefix(bundle.path()) {
            spec.rootfs = Path::new("/bundle").join(inside);
        }
        Ok(spec)
    }

    #[test]
    fn reads_what_a_delivery_needs_and_nothing_else() {
        let spec = load(
            r#"{"ociVersion":7,"root":{"path":"rootfs","readonly":true},
                "process":{"user":{"uid":5,"gid":6},"capabilities":{"bounding":["CAP_FROM_THE_FUTURE"]}},
                "mounts":[{"destination":"/run","type":"tmpfs","source":"tmpfs","options":["ro"]}],
                "linux":{"mountLabel":"l:c1,c2","maskedPaths":["/proc/kcore"],"readonlyPaths":["/proc/sys"],
                         "seccomp":{"defaultAction":"SCMP_ACT_FROM_THE_FUTURE"}}}"#,
        )
        .unwrap();
        assert_eq!(spec.rootfs, Path::new("/bundle/rootfs"));
        assert_eq!(spec.user, Some(Owner { uid: 5, gid: 6 }));
        assert_eq!(spec.mounts[0].destination(), Path::new("/run"));
        assert_eq!(spec.mount_label.as_deref(), Some("l:c1,c2"));
        assert_eq!((spec.masked_paths.len(), spec.readonly_paths.len()), (1, 1));
    }

    #[test]
    fn does_without_everything_but_a_root() {
        let joins = |namespace: &str| {
            let linux = format!(r#"{{"namespaces":[{{"type":"future"}},{namespace}]}}"#);
            load(&format!(r#"{{"root":{{"path":"r"}},"linux":{linux}}}"#)).unwrap().joins_mounts
        };
        assert!(joins(r#"{"type":"mount","path":"/proc/1/ns/mnt"}"#));
        assert!(!joins(r#"{"type":"mount","path":""}"#) && !joins(r#"{"type":"pid","path":"/proc/1/ns/pid"}"#));
        let json = r#"{"root":{"path":"/abs"},"mounts":null,"linux":{"mountLabel":"","maskedPaths":null}}"#;
        let spec = load(json).unwrap();
        assert_eq!((spec.rootfs.as_path(), spec.user, spec.mount_label), (Path::new("/abs"), None, None));
        for json in ["{}", r#"{"root":{}}"#, r#"{"root":{"path":""}}"#, r#"{"root":null}"#] {
            assert!(matches!(load(json), Err(SpecError::NoRootfs { .. })), "{json}");
        }
        assert!(matches!(load("{"), Err(SpecError::Json { .. })));
    }

    #[test]
    fn refuses_a_spec_that_parsers_read_in_different_ways() {
        let root = r#""root":{"path":"r"}"#;
        for other in [
            r#""annotations":{"a":"1"},"annotations":{"b":"1"}"#,
            r#""Root":{"path":"/"}"#,
            r#""root":{"path":"/"}"#,
            r#""process":{"user":{"uid":1,"gid":1,"UID":0}}"#,
            r#""process":{"User":{"uid":1,"gid":1}}"#,
            r#""process":{"args":["a"],"args":["b"]}"#,
            r#""mounts":[{"destination":"/x","Destination":"/run"}]"#,
            r#""mounts":[{"destination":"/x","destination":"/run"}]"#,
            r#""linux":{"MaskedPaths":["/run"]}"#,
            r#""linux":{"namespaces":[{"type":"pid","Type":"mount","path":"/proc/1/ns/mnt"}]}"#,
            r#""linux":{"seccomp":{"a":1,"a":2}}"#,
            r#""hooks":{"CreateRuntime":[]}"#,
        ] {
            let refused = load(&format!("{{{root},{other}}}"));
            assert!(matches!(refused, Err(SpecError::Json { .. })), "{other}: {refused:?}");
        }
    }

    #[test]
    fn reads_only_regular_files_of_reasonable_length() {
        let bundle = tempfile::tempdir().unwrap();
        let path = bundle.path().join("config.json");
        assert!(matches!(Spec::load(bundle.path()), Err(SpecError::Read { .. })));
        let mode = Mode::from(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(matches!(Spec::load(bundle.path()), Err(SpecError::NotAFile { .. })));
        std::fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(SPEC_BYTES_MAX + 1).unwrap();
        assert!(matches!(Spec::load(bundle.path()), Err(SpecError::TooLong { .. })));
    }

    #[test]
    fn says_whose_fault_a_bundle_at_the_root_is() {
        assert!(matches!(Spec::load(Path::new("/")), Err(SpecError::BundleIsRoot)));
    }
}

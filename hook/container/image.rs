//! The annotations of a container's image. Before 4.5.1, podman applies them to the container, before those of the caller.
//!
//! Nothing in a state or spec distinguishes the two, so the image's manifests are read in podman's storage:
//! `<driver>-containers/containers.json` has the image of each container, `<driver>-images/<image>` its manifests. With
//! `transient_store`, the list is in podman's runtime directory, which the spec's mounts of `/etc/hosts` and the like lead to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::null_is_empty;
use crate::errno::Errno;
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};
use crate::json;

/// The largest file of the storage that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The lists of containers, those of `podman run --rm` in a file of their own.
const LISTS: [&str; 2] = ["containers.json", "volatile-containers.json"];

/// The names of manifests: plain, or `manifest-<digest>` in base64.
const MANIFEST: &str = "manifest";
const MANIFEST_WITH_DIGEST: &str = "=bWFuaWZlc3Qt";

/// The annotations of the image of the container with this bundle; none if no engine with such a storage made the bundle.
///
/// # Errors
/// When the storage cannot be read, or lacks the container, the image or its manifest.
pub fn annotations_of_image(bundle: &Path) -> Result<BTreeMap<String, String>, ImageError> {
    let Some(storage) = Storage::of(bundle) else { return Ok(BTreeMap::new()) };
    match storage.image()? {
        Some(image) => storage.annotations(&image),
        None => Ok(BTreeMap::new()),
    }
}

/// Where containers/storage keeps a container and the images.
struct Storage<'a> {
    container: &'a str,
    containers: &'a Path,
    images: PathBuf,
}

impl<'a> Storage<'a> {
    /// podman's bundles are `<root>/<driver>-containers/<id>/userdata`. So are CRI-O's, in a root without images: it applies none
    /// of their annotations.
    fn of(bundle: &'a Path) -> Option<Storage<'a>> {
        let directory = bundle.parent().filter(|_| bundle.ends_with("userdata"))?;
        let containers = directory.parent()?;
        let driver = containers.file_name()?.to_str()?.strip_suffix("-containers")?;
        let images = containers.with_file_name(format!("{driver}-images"));
        let container = directory.file_name()?.to_str()?;
        images.is_dir().then_some(Storage { container, containers, images })
    }

    /// The image of the container; `None` for one that was started from a directory.
    fn image(&self) -> Result<Option<String>, ImageError> {
        #[derive(Deserialize)]
        struct Container {
            id: String,
            #[serde(default, deserialize_with = "null_is_empty")]
            image: String,
        }
        let find = |directory: &Path| -> Result<Option<Container>, ImageError> {
            for list in LISTS {
                let containers: Vec<Container> = read(&directory.join(list))?.unwrap_or_default();
                let found = containers.into_iter().find(|container| container.id == self.container);
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        };
        let mut found = find(self.containers)?;
        if found.is_none() {
            found = self.runtime_directory()?.map(|directory| find(&directory)).transpose()?.flatten();
        }
        let container = found.ok_or_else(|| ImageError::NoContainer { path: self.containers.to_owned() })?;
        Ok(Some(container.image).filter(|image| !image.is_empty()))
    }

    /// The counterpart of the directory of containers in podman's runtime directory, where files for this container are mounted from.
    fn runtime_directory(&self) -> Result<Option<PathBuf>, ImageError> {
        #[derive(Deserialize)]
        struct Mounting {
            #[serde(default, deserialize_with = "null_is_empty")]
            mounts: Vec<Mount>,
        }
        #[derive(Deserialize)]
        struct Mount {
            #[serde(default, deserialize_with = "null_is_empty")]
            source: PathBuf,
        }
        let own = Path::new(self.containers.file_name().unwrap_or_default()).join(self.container).join("userdata");
        let Some(Mounting { mounts }) = read(&self.containers.join(self.container).join("userdata/config.json"))?
        else {
            return Ok(None);
        };
        let directory = |mount: &Mount| {
            let userdata = mount.source.parent().filter(|directory| directory.ends_with(&own))?;
            userdata.ancestors().nth(2).map(Path::to_owned)
        };
        Ok(mounts.iter().filter_map(directory).find(|directory| directory != self.containers))
    }

    /// The annotations in any manifest of an image: which one podman took is not known.
    fn annotations(&self, image: &str) -> Result<BTreeMap<String, String>, ImageError> {
        #[derive(Deserialize)]
        struct Manifest {
            #[serde(default, deserialize_with = "null_is_empty")]
            annotations: BTreeMap<String, String>,
        }
        let directory = self.images.join(image.replace('/', "_"));
        let failed = |error: std::io::Error| ImageError::Read { path: directory.clone(), errno: error.into() };
        let (mut annotations, mut manifests) = (BTreeMap::new(), 0);
        for entry in directory.read_dir().map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let is_manifest = name == MANIFEST || name.to_string_lossy().starts_with(MANIFEST_WITH_DIGEST);
            if let Some(Manifest { annotations: more }) =
                is_manifest.then(|| read(&directory.join(&name))).transpose()?.flatten()
            {
                manifests += 1;
                annotations.extend(more);
            }
        }
        if manifests == 0 { Err(ImageError::NoManifest { path: directory }) } else { Ok(annotations) }
    }
}

/// Reads a file of the storage, `None` if there is no such file.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, ImageError> {
    let failed = |error: std::io::Error| ImageError::Read { path: path.to_owned(), errno: error.into() };
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ImageError::TooLong { path: path.to_owned() });
    }
    json::from_slice(&text).map(Some).map_err(|source| ImageError::Json { path: path.to_owned(), source })
}

/// What to do about annotations that may be those of the image.
pub const IMAGE_HINT: &str = "podman before 4.5.1 takes annotations from images; with a newer one, set image-annotations = \"allow\" under [deliver]";

/// Why the annotations of a container cannot be used because of its image.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum ImageError {
    /// A request, or a reference under another key, that the image has, too.
    #[error("refusing annotation {}: the image has it, too", Excerpt(.key))]
    Request { key: String },
    /// A file or directory of the storage.
    #[error("cannot look up the image's annotations in {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// A longer file than any storage has.
    #[error("cannot look up the image's annotations in {}: it is longer than {} MiB", .path.display(), FILE_BYTES_MAX >> 20)]
    TooLong { path: PathBuf },
    /// Not JSON that podman reads alike.
    #[error("cannot look up the image's annotations in {}", .path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    /// No list has the container.
    #[error("cannot look up the image's annotations in {}: no list has the container", .path.display())]
    NoContainer { path: PathBuf },
    /// The image is kept elsewhere.
    #[error("cannot look up the image's annotations in {}: there is no manifest", .path.display())]
    NoManifest { path: PathBuf },
}

impl Fault for ImageError {
    fn class(&self) -> Class {
        Class::NotPermitted
    }

    fn hint(&self) -> Option<String> {
        Some(IMAGE_HINT.to_owned())
    }

    fn is_for_users(&self) -> bool {
        matches!(self, ImageError::Request { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A storage with one container, and the manifests of its image.
    fn storage(list: &str, image: &str, manifests: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let bundle = root.path().join("overlay-containers/c1/userdata");
        fs::create_dir_all(&bundle).unwrap();
        let containers = format!(r#"[{{"id":"c0","image":"other"}},{{"id":"c1","image":"{image}","flags":{{}}}}]"#);
        fs::write(root.path().join("overlay-containers").join(list), containers).unwrap();
        let directory = root.path().join("overlay-images/i1");
        fs::create_dir_all(&directory).unwrap();
        for (name, text) in manifests {
            fs::write(directory.join(name), text).unwrap();
        }
        (root, bundle)
    }

    #[test]
    fn reads_every_manifest_of_the_containers_image() {
        let one = r#"{"schemaVersion":2,"annotations":{"run.secrets/s":"op://v/i/f"}}"#;
        let manifests =
            [("manifest", one), ("=bWFuaWZlc3QtYQ==", r#"{"annotations":{"b":"2"}}"#), ("=c2hhMjU2", "not JSON")];
        for list in LISTS {
            let (_root, bundle) = storage(list, "i1", &manifests);
            let found = annotations_of_image(&bundle).unwrap();
            let pairs: Vec<(&str, &str)> = found.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            assert_eq!(pairs, [("b", "2"), ("run.secrets/s", "op://v/i/f")]);
        }
        let (_root, bundle) = storage(LISTS[0], "i1", &[("manifest", r#"{"annotations":null}"#)]);
        assert!(annotations_of_image(&bundle).unwrap().is_empty());
    }

    #[test]
    fn a_transient_store_has_its_list_where_files_are_mounted_from() {
        let (root, bundle) = storage("other.json", "i1", &[("manifest", r#"{"annotations":{"a":"b"}}"#)]);
        let run = root.path().join("run/overlay-containers");
        let spec = |directory: &Path| {
            let mounts = format!(
                r#"{{"mounts":[{{"source":"proc"}},{{"destination":"/x"}},{{"source":"{0}/c2/userdata/hosts"}},{{"source":"{0}/c1/userdata/hosts"}}]}}"#,
                directory.display()
            );
            fs::write(bundle.join("config.json"), mounts).unwrap();
        };
        spec(&run);
        assert!(matches!(annotations_of_image(&bundle), Err(ImageError::NoContainer { .. })));
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join(LISTS[1]), r#"[{"id":"c2"},{"id":"c1","image":"i1"}]"#).unwrap();
        assert_eq!(annotations_of_image(&bundle).unwrap(), [("a".to_owned(), "b".to_owned())].into());
        spec(&root.path().join("overlay-containers"));
        assert!(matches!(annotations_of_image(&bundle), Err(ImageError::NoContainer { .. })));
    }

    #[test]
    fn a_container_without_an_image_or_outside_of_a_storage_has_none() {
        let (_root, bundle) = storage(LISTS[0], "", &[]);
        assert!(annotations_of_image(&bundle).unwrap().is_empty());
        let (root, bundle) = storage(LISTS[0], "i1", &[]);
        fs::remove_dir_all(root.path().join("overlay-images")).unwrap();
        assert!(annotations_of_image(&bundle).unwrap().is_empty());
        assert!(annotations_of_image(Path::new("/run/containerd/x/k8s.io/c1")).unwrap().is_empty());
    }

    #[test]
    fn what_it_cannot_find_or_parse_is_an_error() {
        let error = |list: &str, image: &str, manifests: &[(&str, &str)]| {
            let (_root, bundle) = storage(list, image, manifests);
            annotations_of_image(&bundle).unwrap_err()
        };
        assert!(matches!(error("other.json", "i1", &[("manifest", "{}")]), ImageError::NoContainer { .. }));
        assert!(matches!(error(LISTS[0], "i2", &[("manifest", "{}")]), ImageError::Read { .. }));
        assert!(matches!(error(LISTS[0], "i1", &[("=c2hhMjU2", "{}")]), ImageError::NoManifest { .. }));
        for text in ["{", r#"{"Annotations":{"a":"b"}}"#, r#"{"annotations":{},"annotations":{}}"#] {
            assert!(matches!(error(LISTS[0], "i1", &[("manifest", text)]), ImageError::Json { .. }), "{text}");
        }
    }
}

//! Annotations, and who can set each of them.
//!
//! | annotation | under containerd | under CRI-O | under podman |
//! |---|---|---|---|
//! | `io.kubernetes.cri.*` | containerd | the author of the pod | the caller |
//! | `io.kubernetes.pod.*`, `io.kubernetes.container.name`, `io.kubernetes.cri-o.*`, as far as [`CRIO_SETS`] lists them | the author of the pod, if `pod_annotations` names them | the kubelet and CRI-O | the caller |
//! | any other | the author of the pod, if `pod_annotations` names it | the author of the pod | the caller, and before 4.5.1 the image |
//!
//! An annotation that names the container or its pod counts only under the engine that sets it.

use std::collections::BTreeMap;
use std::fmt;

const NAMESPACE_OF_CONTAINERD: &str = "io.kubernetes.cri.sandbox-namespace";
const NAMESPACE_OF_CRIO: &str = "io.kubernetes.pod.namespace";
const CONTAINER_OF_CONTAINERD: &str = "io.kubernetes.cri.container-name";
const CONTAINER_OF_CRIO: &str = "io.kubernetes.container.name";

/// The keys that hold the namespace of a container's pod: containerd's, and CRI-O's.
pub const NAMESPACE_KEYS: [&str; 2] = [NAMESPACE_OF_CONTAINERD, NAMESPACE_OF_CRIO];

/// The keys that hold a container's name in its pod: containerd's, and CRI-O's.
pub(super) const CONTAINER_NAME_KEYS: [&str; 2] = [CONTAINER_OF_CONTAINERD, CONTAINER_OF_CRIO];

/// `k8s_<pod>_<namespace>_<uid>_<attempt>`, and the same with the container's name in front: CRI-O's own, with or without labels.
const SANDBOX_NAME: &str = "io.kubernetes.cri-o.SandboxName";
const NAME: &str = "io.kubernetes.cri-o.Name";

/// By these the engine at hand is known.
const MANAGER: &str = "io.container.manager";
const TYPE_OF_CONTAINERD: &str = "io.kubernetes.cri.container-type";
const TYPE_OF_CRIO: &str = "io.kubernetes.cri-o.ContainerType";

/// What every version of containerd sets after the pod's annotations.
const CONTAINERD_SETS: [&str; 7] = [
    TYPE_OF_CONTAINERD,
    NAMESPACE_OF_CONTAINERD,
    CONTAINER_OF_CONTAINERD,
    "io.kubernetes.cri.sandbox-id",
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.cri.sandbox-uid",
    "io.kubernetes.cri.image-name",
];

/// What CRI-O sets after the pod's annotations: its own, and the kubelet's labels.
const CRIO_SETS: [&str; 17] = [
    MANAGER,
    NAMESPACE_OF_CRIO,
    CONTAINER_OF_CRIO,
    TYPE_OF_CRIO,
    SANDBOX_NAME,
    NAME,
    "io.kubernetes.pod.name",
    "io.kubernetes.pod.uid",
    "io.kubernetes.cri-o.ContainerID",
    "io.kubernetes.cri-o.SandboxID",
    "io.kubernetes.cri-o.Image",
    "io.kubernetes.cri-o.ImageName",
    "io.kubernetes.cri-o.ImageRef",
    "io.kubernetes.cri-o.Metadata",
    "io.kubernetes.cri-o.Labels",
    "io.kubernetes.cri-o.Annotations",
    "io.kubernetes.cri-o.MountPoint",
];

/// What the author of a pod chooses, and an engine sets: names, and the image.
const AUTHOR_CHOOSES: [&str; 8] = [
    CONTAINER_OF_CONTAINERD,
    CONTAINER_OF_CRIO,
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.pod.name",
    "io.kubernetes.cri.image-name",
    "io.kubernetes.cri-o.Image",
    "io.kubernetes.cri-o.ImageName",
    "io.kubernetes.cri-o.ImageRef",
];

/// The annotations of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    values: BTreeMap<String, String>,
    /// Those of its image.
    image: BTreeMap<String, String>,
}

/// What a container has under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Nothing.
    Absent,
    /// A text that grants may look at.
    Counts(&'a str),
    /// A text that another party than the expected one may have set.
    Ignored(&'a str, Why),
}

/// Why an annotation does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The engine at hand does not set it.
    NotOf(Manager),
    /// The image has it, with the same value.
    OfImage,
}

/// The engine that started a container, as far as its own annotations show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// containerd; or a runtime whose caller writes all annotations.
    Containerd,
    /// CRI-O.
    Crio,
    /// podman.
    Podman,
    /// There are marks of more than one.
    Unclear,
}

impl Annotations {
    /// Annotations that no image has set.
    pub fn new(values: BTreeMap<String, String>) -> Annotations {
        Annotations { values, image: BTreeMap::new() }
    }

    /// The same annotations, of a container whose image has these.
    #[must_use]
    pub fn with_image(self, image: BTreeMap<String, String>) -> Annotations {
        Annotations { image, ..self }
    }

    /// Those of the image.
    pub fn image(&self) -> &BTreeMap<String, String> {
        &self.image
    }

    /// All of them, whatever their origin.
    pub fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// What is under a key, if it counts.
    pub fn get(&self, key: &str) -> Option<&str> {
        match self.value(key) {
            Value::Counts(text) => Some(text),
            Value::Absent | Value::Ignored(..) => None,
        }
    }

    /// What is under a key, and whether it counts.
    pub fn value(&self, key: &str) -> Value<'_> {
        let Some(text) = self.values.get(key) else { return Value::Absent };
        if self.is_of_image(key) {
            return Value::Ignored(text, Why::OfImage);
        }
        let manager = self.manager();
        match is_identity(key) && !manager.sets(key) {
            true => Value::Ignored(text, Why::NotOf(manager)),
            false => Value::Counts(text),
        }
    }

    /// The namespace of the container's pod.
    ///
    /// # Errors
    /// When another annotation names another namespace: some of them are forged.
    pub fn namespace(&self) -> Result<Option<&str>, Contradiction> {
        let name = self.values.get(SANDBOX_NAME).and_then(|name| name.split('_').nth(2));
        self.agreed(NAMESPACE_KEYS, (SANDBOX_NAME, name), "namespaces")
    }

    /// The container's name in its pod.
    ///
    /// # Errors
    /// As for [`Annotations::namespace`].
    pub fn container_name(&self) -> Result<Option<&str>, Contradiction> {
        let name = self.values.get(NAME).and_then(|name| name.split('_').nth(1));
        self.agreed(CONTAINER_NAME_KEYS, (NAME, name), "containers")
    }

    /// Removes an annotation, and returns whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.values.remove(key).is_some()
    }

    /// The first annotation that the image has, too, and that `matches`.
    pub fn of_image(&self, matches: impl Fn(&str, &str) -> bool) -> Option<&str> {
        let mut keys = self.values.iter().filter(|(key, value)| self.is_of_image(key) && matches(key, value));
        keys.next().map(|(key, _)| key.as_str())
    }

    /// Whether this is the sandbox (pause) container of a pod, which has its pod's annotations and no use for secrets.
    pub fn is_sandbox(&self) -> bool {
        let is_sandbox = |key: &&str| self.values.get(*key).is_some_and(|kind| kind == "sandbox");
        [TYPE_OF_CONTAINERD, TYPE_OF_CRIO].iter().any(|key| is_sandbox(key) && !self.is_of_image(key))
    }

    /// The value of the engine's own key, if no other annotation that holds the same contradicts it.
    fn agreed<'a>(
        &'a self,
        [of_containerd, of_crio]: [&'static str; 2],
        (name_key, name): (&'static str, Option<&'a str>),
        what: &'static str,
    ) -> Result<Option<&'a str>, Contradiction> {
        let (own, key) = match self.manager() {
            Manager::Containerd => (self.get(of_containerd), of_containerd),
            Manager::Crio => match self.get(of_crio) {
                None => (name, name_key),
                label => (label, of_crio),
            },
            Manager::Podman => return Ok(None),
            Manager::Unclear => return Err(Contradiction { what: "engines", one: TYPE_OF_CONTAINERD, other: MANAGER }),
        };
        let own = own.filter(|own| !own.is_empty());
        let text = |key: &str| self.values.get(key).map(String::as_str);
        let others = [(of_containerd, text(of_containerd)), (of_crio, text(of_crio)), (name_key, name)];
        match others.into_iter().find(|(_, other)| other.is_some() && *other != own) {
            Some((other, _)) => Err(Contradiction { what, one: key, other }),
            None => Ok(own),
        }
    }

    fn is_of_image(&self, key: &str) -> bool {
        self.image.get(key).is_some_and(|value| self.values.get(key) == Some(value))
    }

    fn manager(&self) -> Manager {
        let own = |key: &str| self.values.get(key).filter(|_| !self.is_of_image(key)).map(String::as_str);
        match (own(MANAGER), own(TYPE_OF_CRIO), own(TYPE_OF_CONTAINERD)) {
            (Some("libpod"), _, _) => Manager::Podman,
            (Some("cri-o"), Some(_), None) => Manager::Crio,
            (None, None, _) => Manager::Containerd,
            _ => Manager::Unclear,
        }
    }
}

/// Whether a key is one by which an engine says which container or pod this is.
pub fn is_identity(key: &str) -> bool {
    key.starts_with("io.kubernetes.") || key == MANAGER
}

impl Manager {
    /// Whether this engine sets a key after the annotations of others, so that the author of a pod cannot.
    pub fn sets(self, key: &str) -> bool {
        match self {
            Manager::Containerd => CONTAINERD_SETS.contains(&key),
            Manager::Crio => CRIO_SETS.contains(&key),
            Manager::Podman | Manager::Unclear => false,
        }
    }
}

/// Whether the author of a pod can choose what an annotation that counts has under this key, if the engine passes it on.
pub fn author_chooses(key: &str) -> bool {
    !is_identity(key) || AUTHOR_CHOOSES.contains(&key)
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Manager::Containerd => "containerd",
            Manager::Crio => "CRI-O",
            Manager::Podman => "podman",
            Manager::Unclear => "an engine with marks of two",
        })
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotOf(manager) => write!(f, "which {manager} does not set"),
            Why::OfImage => f.write_str("which the image sets"),
        }
    }
}

/// Annotations of which at least one is forged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the annotations {one} and {other} name different {what}")]
pub struct Contradiction {
    what: &'static str,
    one: &'static str,
    other: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRIO: [(&str, &str); 3] = [(MANAGER, "cri-o"), (TYPE_OF_CRIO, "container"), (NAMESPACE_OF_CRIO, "other")];
    const CONTAINERD: [(&str, &str); 2] = [(TYPE_OF_CONTAINERD, "container"), (NAMESPACE_OF_CONTAINERD, "other")];

    fn annotations(parts: &[&[(&str, &str)]]) -> Annotations {
        Annotations::new(parts.concat().iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn an_identity_counts_under_the_engine_that_sets_it() {
        let crio = annotations(&[&CRIO, &[("io.kubernetes.cri.sandbox-name", "p"), ("team", "a")]]);
        assert_eq!((crio.get(NAMESPACE_OF_CRIO), crio.get("team")), (Some("other"), Some("a")));
        let ignored = Value::Ignored("p", Why::NotOf(Manager::Crio));
        assert_eq!(crio.value("io.kubernetes.cri.sandbox-name"), ignored);
        let forged = annotations(&[&CRIO, &[("io.kubernetes.cri-o.KubeName", "x"), ("io.kubernetes.cri-o.IP.0", "x")]]);
        assert_eq!((forged.get("io.kubernetes.cri-o.KubeName"), forged.get("io.kubernetes.cri-o.IP.0")), (None, None));
        let containerd = annotations(&[&CONTAINERD, &[("io.kubernetes.pod.name", "p")]]);
        assert_eq!(containerd.get(NAMESPACE_OF_CONTAINERD), Some("other"));
        assert_eq!(containerd.get("io.kubernetes.pod.name"), None);
        let podman = annotations(&[&[(MANAGER, "libpod"), (NAMESPACE_OF_CONTAINERD, "agents"), ("team", "a")]]);
        assert_eq!((podman.get(NAMESPACE_OF_CONTAINERD), podman.get("team")), (None, Some("a")));
    }

    #[test]
    fn a_namespace_is_that_of_the_engine_and_contradictions_are_refused() {
        let namespace =
            |parts: &[&[(&str, &str)]]| annotations(parts).namespace().map(|found| found.map(str::to_owned));
        let other = || Ok(Some("other".to_owned()));
        assert_eq!(namespace(&[&CRIO]), other());
        assert_eq!(namespace(&[&CONTAINERD]), other());
        assert_eq!(namespace(&[&CRIO, &[(SANDBOX_NAME, "k8s_p_other_u_0")]]), other());
        // A client that sends no labels.
        assert_eq!(namespace(&[&CRIO[..2], &[(SANDBOX_NAME, "k8s_p_other_u_0")]]), other());
        assert_eq!(namespace(&[&[(MANAGER, "libpod"), (NAMESPACE_OF_CRIO, "agents")]]), Ok(None));
        assert_eq!(namespace(&[&[("team", "a")]]), Ok(None));
        for forged in [
            [&CRIO[..], &[(NAMESPACE_OF_CONTAINERD, "agents")]],
            [&CRIO[..], &[(SANDBOX_NAME, "k8s_p_agents_u_0")]],
            [&CONTAINERD[..], &[(NAMESPACE_OF_CRIO, "agents")]],
            [&CONTAINERD[..], &CRIO[..]],
            [&CONTAINERD[..], &[(MANAGER, "cri-o")]],
            [&[(NAMESPACE_OF_CRIO, "agents")], &[(MANAGER, "cri-o")]],
            [&[(NAMESPACE_OF_CRIO, "agents")], &[]],
        ] {
            assert!(namespace(&forged).is_err(), "{forged:?}");
        }
        let error = namespace(&[&CRIO, &[(NAMESPACE_OF_CONTAINERD, "agents")]]).unwrap_err().to_string();
        let message = "the annotations io.kubernetes.pod.namespace and io.kubernetes.cri.sandbox-namespace name different namespaces";
        assert_eq!(error, message);
    }

    #[test]
    fn a_container_is_named_by_the_engine() {
        let name =
            |parts: &[&[(&str, &str)]]| annotations(parts).container_name().map(|found| found.map(str::to_owned));
        let app = || Ok(Some("app".to_owned()));
        assert_eq!(name(&[&CONTAINERD, &[(CONTAINER_OF_CONTAINERD, "app")]]), app());
        assert_eq!(name(&[&CRIO, &[(CONTAINER_OF_CRIO, "app"), (NAME, "k8s_app_p_other_u_0")]]), app());
        assert_eq!(name(&[&CRIO, &[(NAME, "k8s_app_p_other_u_0")]]), app());
        assert!(name(&[&CRIO, &[(CONTAINER_OF_CRIO, "app"), (CONTAINER_OF_CONTAINERD, "other")]]).is_err());
        assert!(name(&[&CRIO, &[(CONTAINER_OF_CRIO, "other"), (NAME, "k8s_app_p_other_u_0")]]).is_err());
        assert!(name(&[&CRIO, &[(CONTAINER_OF_CONTAINERD, "other")]]).is_err());
        assert_eq!(name(&[&CONTAINERD]), Ok(None));
    }

    #[test]
    fn what_the_image_has_does_not_count() {
        let image = [("team", "a"), (MANAGER, "cri-o"), (TYPE_OF_CRIO, "sandbox"), ("other", "x")];
        let of_image = image.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let own = ("other", "the caller's");
        let annotations = annotations(&[&image[..3], &[own]]).with_image(of_image);
        assert_eq!(annotations.value("team"), Value::Ignored("a", Why::OfImage));
        assert_eq!(annotations.get("other"), Some("the caller's"));
        assert!(!annotations.is_sandbox());
        assert_eq!(annotations.manager(), Manager::Containerd);
        assert_eq!(annotations.of_image(|key, _| key == "team"), Some("team"));
        assert_eq!(annotations.of_image(|key, _| key == "other"), None);
    }

    #[test]
    fn knows_the_sandbox_of_containerd_and_of_cri_o() {
        assert!(annotations(&[&[(TYPE_OF_CONTAINERD, "sandbox")]]).is_sandbox());
        assert!(annotations(&[&[(TYPE_OF_CRIO, "sandbox")]]).is_sandbox());
        assert!(!annotations(&[&CRIO]).is_sandbox() && !annotations(&[&CONTAINERD]).is_sandbox());
    }
}

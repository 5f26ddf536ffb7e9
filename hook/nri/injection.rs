//! What a container needs so that its runtime calls the hook, and the hook finds the requests.
//!
//! containerd gives a container none of its pod's annotations unless its settings name them; the adjustment passes on those that
//! are ours, and references under other keys, which the hook then refuses as typos. Whatever is there already is left out: an annotation
//! that two plugins set makes the runtime refuse the container, and a hook that is listed twice delivers twice. A runtime shows each plugin
//! what those before it have added, so that two instances of this plugin, as in a rolling update, agree.

use std::collections::BTreeMap;
use std::path::Path;

use super::api::{Container, ContainerAdjustment, Hook, Hooks, OptionalInt, PodSandbox, STOPPED};
use crate::container::{Annotations, CHECK_ANNOTATIONS, HOOK_NAME, is_hook, is_identity, is_ours, is_reference};
use crate::excerpt::Excerpt;

/// The time after which the runtime kills the hook: longer than the longest deadline that settings may give it.
const HOOK_TIMEOUT_SECONDS: i64 = 150;

const HOOK_ENVIRONMENT: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// The prefix by which an adjustment removes an annotation.
const REMOVAL: char = '-';

/// The hook, as the runtime is to call it.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    hook: Hook,
}

impl Injection {
    /// A hook at this path of the host, with these settings or its default ones.
    pub fn new(hook: &Path, settings: Option<&Path>) -> Injection {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let settings = settings.into_iter().flat_map(|settings| ["--settings".to_owned(), text(settings)]);
        let args = std::iter::once(HOOK_NAME.to_owned()).chain(settings).collect();
        let timeout = Some(OptionalInt { value: HOOK_TIMEOUT_SECONDS });
        Injection { hook: Hook { path: text(hook), args, env: vec![HOOK_ENVIRONMENT.into()], timeout } }
    }

    /// The change to a container; `None` if it needs none.
    pub fn adjustment(&self, pod: &PodSandbox, container: &Container) -> Option<ContainerAdjustment> {
        if !requests_secrets(pod, container) {
            return None;
        }
        let annotations = missing_annotations(pod, &container.annotations);
        let hooks = (!has_hook(container.hooks.as_ref()))
            .then(|| Hooks { create_runtime: vec![self.hook.clone()], ..Hooks::default() });
        (hooks.is_some() || !annotations.is_empty()).then_some(ContainerAdjustment { annotations, hooks })
    }
}

/// Refuses a container that requests secrets but will not call the hook, or whose hook will not find all requests.
pub fn validate(
    pod: &PodSandbox,
    container: &Container,
    adjustment: Option<&ContainerAdjustment>,
) -> Result<(), Incomplete> {
    if !requests_secrets(pod, container) {
        return Ok(());
    }
    let hooks = adjustment.and_then(|adjustment| adjustment.hooks.as_ref());
    if !has_hook(container.hooks.as_ref()) && !has_hook(hooks) {
        return Err(Incomplete::Hook);
    }
    let mut annotations = container.annotations.clone();
    annotations.extend(adjustment.map(|adjustment| adjustment.annotations.clone()).unwrap_or_default());
    match missing_annotations(pod, &annotations).pop_first() {
        Some((key, _)) => Err(Incomplete::Annotation { key }),
        None => Ok(()),
    }
}

/// The containers that request secrets and run without the hook, as `namespace/pod/container`.
pub fn started_without(pods: &[PodSandbox], containers: &[Container]) -> Vec<String> {
    let pods: BTreeMap<&str, &PodSandbox> = pods.iter().map(|pod| (pod.id.as_str(), pod)).collect();
    let running = containers.iter().filter(|container| container.state != STOPPED);
    let placed = running.filter_map(|container| Some((*pods.get(container.pod_sandbox_id.as_str())?, container)));
    let without =
        placed.filter(|(pod, container)| requests_secrets(pod, container) && !has_hook(container.hooks.as_ref()));
    without.map(|(pod, container)| format!("{}/{}/{}", pod.namespace, pod.name, container.name)).collect()
}

/// What a container lacks that requests secrets.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum Incomplete {
    /// The hook.
    #[error("the container requests secrets, and no plugin has added the hook of oci-secrets")]
    Hook,
    /// An annotation of its pod.
    #[error("the container lacks the annotation {} of its pod", Excerpt(.key))]
    Annotation { key: String },
}

/// Whether the hook has to be called. It also refuses what a container must not have among its own annotations.
fn requests_secrets(pod: &PodSandbox, container: &Container) -> bool {
    let mut of_pod = pod.annotations.iter();
    let mut own = container.annotations.iter();
    let is_for_hook =
        of_pod.any(|(key, value)| is_request(key, value)) || own.any(|(key, value)| is_of_hook(key, value));
    is_for_hook && !is_sandbox(container)
}

/// No runtime asks plugins about a pod's own (pause) container; it would have no use for secrets.
fn is_sandbox(container: &Container) -> bool {
    Annotations::new(container.annotations.clone()).is_sandbox()
}

/// The requests of a pod that its container has not got.
fn missing_annotations(pod: &PodSandbox, container: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let requests = pod.annotations.iter().filter(|(key, value)| is_request(key, value));
    let missing = requests.filter(|(key, _)| !container.contains_key(*key));
    missing.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Whether an annotation of a pod is for the hook. An annotation by which an engine identifies a container is never passed on: its
/// author could forge the identity.
fn is_request(key: &str, value: &str) -> bool {
    is_of_hook(key, value) && !is_identity(key) && !key.starts_with(REMOVAL)
}

fn is_of_hook(key: &str, value: &str) -> bool {
    is_ours(key) || is_reference(value)
}

fn has_hook(hooks: Option<&Hooks>) -> bool {
    let hooks = hooks.into_iter().flat_map(|hooks| hooks.prestart.iter().chain(&hooks.create_runtime));
    hooks
        .into_iter()
        .any(|hook| is_hook(Path::new(&hook.path)) && !hook.args.iter().any(|arg| arg == CHECK_ANNOTATIONS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: &str = "io.kubernetes.cri.sandbox-namespace";

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn pod(pairs: &[(&str, &str)]) -> PodSandbox {
        PodSandbox { annotations: annotations(pairs), ..PodSandbox::default() }
    }

    fn container(pairs: &[(&str, &str)]) -> Container {
        Container { annotations: annotations(pairs), ..Container::default() }
    }

    fn injection() -> Injection {
        Injection::new(Path::new("/opt/oci-secrets-hook"), Some(Path::new("/etc/s.toml")))
    }

    fn with_hook(arguments: &[&str]) -> Container {
        let args = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let hook = Hook { path: "/usr/libexec/oci/hooks.d/oci-secrets-hook".into(), args, ..Hook::default() };
        Container { hooks: Some(Hooks { create_runtime: vec![hook], ..Hooks::default() }), ..Container::default() }
    }

    #[test]
    fn a_container_gets_the_hook_and_the_requests_of_its_pod() {
        let pod = pod(&[("run.secrets/db", "op://a/b/c"), ("app.run.secrets/x", "op://a/b/d"), ("team", "red")]);
        let adjustment = injection().adjustment(&pod, &container(&[])).unwrap();
        let keys: Vec<&str> = adjustment.annotations.keys().map(String::as_str).collect();
        assert_eq!(keys, ["app.run.secrets/x", "run.secrets/db"]);
        let hooks = adjustment.hooks.unwrap();
        assert!(hooks.prestart.is_empty());
        let Hook { path, args, env, timeout } = &hooks.create_runtime[0];
        assert_eq!(path, "/opt/oci-secrets-hook");
        assert_eq!(args, &["oci-secrets-hook", "--settings", "/etc/s.toml"]);
        assert_eq!(env, &[HOOK_ENVIRONMENT]);
        assert_eq!(timeout.unwrap().value, HOOK_TIMEOUT_SECONDS);
    }

    #[test]
    fn the_environment_is_that_of_other_engines() {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../config/hooks.d/90-oci-secrets.json")).unwrap();
        assert_eq!(file["hook"]["env"], serde_json::json!([HOOK_ENVIRONMENT]));
        assert_eq!(file["hook"]["args"], serde_json::json!([HOOK_NAME]));
    }

    #[test]
    fn other_containers_are_left_alone() {
        let without = pod(&[("team", "red")]);
        assert_eq!(injection().adjustment(&without, &container(&[])), None);
        let with = pod(&[("run.secrets/db", "op://a/b/c")]);
        assert_eq!(injection().adjustment(&with, &container(&[("io.kubernetes.cri.container-type", "sandbox")])), None);
    }

    #[test]
    fn a_second_instance_adds_nothing() {
        let pod = pod(&[("run.secrets/db", "op://a/b/c")]);
        let adjustment = injection().adjustment(&pod, &container(&[])).unwrap();
        let adjusted =
            Container { annotations: adjustment.annotations, hooks: adjustment.hooks, ..Container::default() };
        assert_eq!(injection().adjustment(&pod, &adjusted), None);
    }

    #[test]
    fn a_hook_that_is_there_is_not_added_again() {
        let pod = pod(&[("run.secrets/db", "op://a/b/c")]);
        let adjustment = injection().adjustment(&pod, &with_hook(&["oci-secrets-hook"])).unwrap();
        assert_eq!((adjustment.hooks, adjustment.annotations.len()), (None, 1));
        // This one only looks for typos.
        let adjustment = injection().adjustment(&pod, &with_hook(&["oci-secrets-hook", CHECK_ANNOTATIONS])).unwrap();
        assert!(adjustment.hooks.is_some());
    }

    #[test]
    fn containers_that_run_without_the_hook_are_found() {
        let pod = PodSandbox {
            id: "p".into(),
            name: "billing".into(),
            namespace: "agents".into(),
            ..pod(&[("run.secrets/x", "")])
        };
        let of =
            |name: &str, container: Container| Container { name: name.into(), pod_sandbox_id: "p".into(), ..container };
        let containers = [
            of("app", container(&[])),
            of("done", Container { state: STOPPED, ..container(&[]) }),
            of("other", with_hook(&[])),
            Container { pod_sandbox_id: "unknown".into(), ..container(&[]) },
        ];
        assert_eq!(started_without(&[pod], &containers), ["agents/billing/app"]);
    }

    #[test]
    fn a_typo_reaches_the_hook_and_a_forged_identity_does_not() {
        let pod = pod(&[("run.secret/db", "op://a/b/c"), (IDENTITY, "op://a/b/c"), ("-run.secrets/db", "op://a/b/c")]);
        let adjustment = injection().adjustment(&pod, &container(&[])).unwrap();
        assert_eq!(adjustment.annotations, annotations(&[("run.secret/db", "op://a/b/c")]));
    }

    #[test]
    fn an_annotation_of_the_container_is_a_request_too_and_goes_before_the_pods() {
        let own = container(&[("run.secrets/db", "op://own/b/c")]);
        let adjustment = injection().adjustment(&pod(&[("run.secrets/db", "op://a/b/c")]), &own).unwrap();
        assert!(adjustment.hooks.is_some() && adjustment.annotations.is_empty());
        assert!(injection().adjustment(&pod(&[]), &own).is_some());
    }

    #[test]
    fn the_hook_is_called_for_what_it_refuses_in_a_container() {
        for key in ["-run.secrets/db", IDENTITY, "example.com/db"] {
            let container = container(&[(key, "op://a/b/c")]);
            let adjustment = injection().adjustment(&pod(&[]), &container);
            assert!(adjustment.as_ref().is_some_and(|adjustment| adjustment.hooks.is_some()), "{key}");
            assert_eq!(validate(&pod(&[]), &container, None), Err(Incomplete::Hook));
        }
    }

    #[test]
    fn a_container_without_hook_or_requests_is_refused() {
        let pod = pod(&[("run.secrets/db", "op://a/b/c")]);
        let adjustment = injection().adjustment(&pod, &container(&[])).unwrap();
        assert_eq!(validate(&pod, &container(&[]), Some(&adjustment)), Ok(()));
        assert_eq!(validate(&pod, &container(&[]), None), Err(Incomplete::Hook));
        let without_annotations = ContainerAdjustment { annotations: BTreeMap::new(), ..adjustment };
        let lacks = Err(Incomplete::Annotation { key: "run.secrets/db".into() });
        assert_eq!(validate(&pod, &container(&[]), Some(&without_annotations)), lacks);
        assert_eq!(validate(&pod, &with_hook(&[]), None), lacks);
        let of_crio = Container { annotations: pod.annotations.clone(), ..with_hook(&[]) };
        assert_eq!(validate(&pod, &of_crio, None), Ok(()));
        assert_eq!(validate(&PodSandbox::default(), &container(&[]), None), Ok(()));
    }
}

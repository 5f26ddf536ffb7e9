//! Which container belongs to which pod, as the runtime reports it: what no author of a pod can forge.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::api::{Container, PodSandbox};

/// The most containers that are remembered. A node has some hundreds; the runtime reports each removal.
const CONTAINERS_MAX: usize = 16_384;

/// The most bytes of labels that are remembered of a pod: its author chooses how many there are.
const LABELS_BYTES_MAX: usize = 64 * 1024;

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// The id of its sandbox.
    pub id: String,
    /// The name.
    pub name: String,
    /// The namespace.
    pub namespace: String,
    /// The uid that Kubernetes gave it.
    pub uid: String,
    /// The labels; none if they are unreasonably long.
    pub labels: BTreeMap<String, String>,
}

/// The place of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its pod.
    pub pod: Arc<Pod>,
    /// Its name in the pod.
    pub container: String,
}

/// The pods and containers of a host, shared by threads.
#[derive(Debug, Default)]
pub struct Pods(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By the container's id, with the number of its arrival.
    containers: BTreeMap<String, (u64, Placed)>,
    arrivals: u64,
}

impl From<PodSandbox> for Pod {
    fn from(pod: PodSandbox) -> Pod {
        let bytes: usize = pod.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
        let labels = if bytes > LABELS_BYTES_MAX { BTreeMap::new() } else { pod.labels };
        Pod { id: pod.id, name: pod.name, namespace: pod.namespace, uid: pod.uid, labels }
    }
}

impl Pods {
    /// The place of the container with this id, if the runtime has reported it.
    pub fn place(&self, container: &str) -> Option<Placed> {
        self.inner().containers.get(container).map(|(_, placed)| placed.clone())
    }

    /// Remembers a container.
    pub(super) fn add(&self, pod: PodSandbox, container: &Container) {
        let pod = Pod::from(pod);
        let mut inner = self.inner();
        // Containers of one pod share it.
        let known = inner.containers.values().find(|(_, placed)| *placed.pod == pod);
        let pod = known.map_or_else(|| Arc::new(pod), |(_, placed)| Arc::clone(&placed.pod));
        inner.add(pod, container);
    }

    /// Remembers these containers instead of all others.
    pub(super) fn replace(&self, pods: Vec<PodSandbox>, containers: &[Container]) {
        let shared = |pod: PodSandbox| (pod.id.clone(), Arc::new(Pod::from(pod)));
        let pods: BTreeMap<String, Arc<Pod>> = pods.into_iter().map(shared).collect();
        let mut new = Inner::default();
        for container in containers {
            if let Some(pod) = pods.get(&container.pod_sandbox_id) {
                new.add(Arc::clone(pod), container);
            }
        }
        *self.inner() = new;
    }

    /// Forgets a container.
    pub(super) fn remove_container(&self, container: &str) {
        self.inner().containers.remove(container);
    }

    /// Forgets all containers of a pod.
    pub(super) fn remove_pod(&self, pod: &str) {
        self.inner().containers.retain(|_, (_, placed)| placed.pod.id != pod);
    }

    /// A panic ends the process, so no other thread ever meets what one left behind.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, pod: Arc<Pod>, container: &Container) {
        self.arrivals += 1;
        let placed = Placed { pod, container: container.name.clone() };
        self.containers.insert(container.id.clone(), (self.arrivals, placed));
        if self.containers.len() > CONTAINERS_MAX {
            let oldest = self.containers.iter().min_by_key(|(_, (arrival, _))| *arrival).map(|(id, _)| id.clone());
            oldest.and_then(|id| self.containers.remove(&id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(id: &str) -> PodSandbox {
        PodSandbox { id: id.into(), name: "billing".into(), namespace: "agents".into(), ..PodSandbox::default() }
    }

    fn container(id: &str, pod: &str) -> Container {
        let (id, pod_sandbox_id) = (id.to_owned(), pod.to_owned());
        Container { id, pod_sandbox_id, name: "app".into(), ..Container::default() }
    }

    #[test]
    fn a_container_has_its_pod_until_one_of_them_is_removed() {
        let pods = Pods::default();
        for (id, of) in [("a", "p"), ("b", "p"), ("c", "q")] {
            pods.add(pod(of), &container(id, of));
        }
        let placed = pods.place("a").unwrap();
        assert_eq!((placed.pod.namespace.as_str(), placed.container.as_str()), ("agents", "app"));
        assert!(Arc::ptr_eq(&placed.pod, &pods.place("b").unwrap().pod));
        pods.remove_container("a");
        assert_eq!(pods.place("a"), None);
        pods.remove_pod("p");
        assert!(pods.place("b").is_none() && pods.place("c").is_some());
    }

    #[test]
    fn a_synchronization_replaces_everything() {
        let pods = Pods::default();
        pods.add(pod("p"), &container("a", "p"));
        pods.replace(vec![pod("q")], &[container("b", "q"), container("c", "unknown")]);
        assert_eq!((pods.place("a"), pods.place("c")), (None, None));
        assert_eq!(pods.place("b").unwrap().pod.id, "q");
    }

    #[test]
    fn memory_is_bounded() {
        let pods = Pods::default();
        let containers: Vec<Container> = (0..CONTAINERS_MAX).map(|i| container(&i.to_string(), "p")).collect();
        pods.replace(vec![pod("p")], &containers);
        pods.add(pod("q"), &container("new", "q"));
        assert!(pods.place("0").is_none() && pods.place("1").is_some() && pods.place("new").is_some());
        let labels = BTreeMap::from([("a".to_owned(), "x".repeat(LABELS_BYTES_MAX))]);
        assert!(Pod::from(PodSandbox { labels, ..pod("p") }).labels.is_empty());
    }
}

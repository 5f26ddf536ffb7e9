//! The plugin: the hook and the requests for each container that needs them, and what this host knows of its pods.

use std::sync::Arc;

use super::api::{ConfigureRequest, Container, ContainerAdjustment, Event, PodSandbox};
use super::calls::Plugin;
use super::injection::{self, Injection};
use super::state::{Runtime, State};
use crate::report;
use crate::settings;

/// The oldest version that lets plugins validate what all of them have changed: of NRI, and of the runtimes whose NRI does not report its own.
const VALIDATION_SINCE: (u64, u64) = (0, 10);
const CONTAINERD_VALIDATES_SINCE: (u64, u64) = (2, 2);
const CRIO_VALIDATES_SINCE: (u64, u64) = (1, 34);

/// The most containers that one warning names.
const NAMED_MAX: usize = 5;

/// The plugin of one connection.
pub(super) struct Injector {
    program: &'static str,
    injection: Injection,
    state: Arc<State>,
    runtime: Runtime,
}

impl Injector {
    /// A plugin that reports to `state`, and logs as `program`.
    pub(super) fn new(program: &'static str, settings: &settings::Nri, state: Arc<State>) -> Injector {
        let hook_settings = settings.hook_settings.as_deref();
        let injection = Injection::new(&settings.hook, hook_settings);
        Injector { program, injection, state, runtime: Runtime::default() }
    }
}

impl Plugin for Injector {
    fn configure(&mut self, runtime: ConfigureRequest) -> i32 {
        let validates = validates(&runtime);
        self.runtime = Runtime { name: runtime.runtime_name, version: runtime.runtime_version, validates };
        let events = [Event::CreateContainer, Event::RemoveContainer, Event::RemovePodSandbox];
        let validation = validates.then_some(Event::ValidateContainerAdjustment);
        events.into_iter().chain(validation).fold(0, |events, event| events | event.bit())
    }

    fn synchronize(&mut self, pods: Vec<PodSandbox>, containers: Vec<Container>) {
        let started_without = injection::started_without(&pods, &containers);
        if !started_without.is_empty() {
            report::warn(self.program, &warning(&started_without));
        }
        self.state.pods.replace(pods, &containers);
        self.state.registered(self.runtime.clone(), started_without.len());
    }

    fn create_container(&mut self, pod: PodSandbox, container: Container) -> Option<ContainerAdjustment> {
        let adjustment = self.injection.adjustment(&pod, &container);
        if adjustment.is_some() {
            self.state.adjusted();
        }
        self.state.pods.add(pod, &container);
        adjustment
    }

    fn validate(
        &mut self,
        pod: &PodSandbox,
        container: &Container,
        adjustment: Option<&ContainerAdjustment>,
    ) -> Result<(), String> {
        injection::validate(pod, container, adjustment).map_err(|error| {
            self.state.refused();
            error.to_string()
        })
    }

    fn container_removed(&mut self, container: &str) {
        self.state.pods.remove_container(container);
    }

    fn pod_removed(&mut self, pod: &str) {
        self.state.pods.remove_pod(pod);
    }
}

/// Whether a runtime knows [`Event::ValidateContainerAdjustment`]: others refuse a plugin that subscribes to it.
fn validates(ConfigureRequest { runtime_name, runtime_version, nri_version }: &ConfigureRequest) -> bool {
    let (version, since) = match (nri_version.as_str(), runtime_name.as_str()) {
        ("", "containerd") => (runtime_version, CONTAINERD_VALIDATES_SINCE),
        ("", "cri-o") => (runtime_version, CRIO_VALIDATES_SINCE),
        _ => (nri_version, VALIDATION_SINCE),
    };
    let mut parts = version.trim_start_matches('v').split('.').map(str::parse::<u64>);
    matches!((parts.next(), parts.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= since)
}

fn warning(started_without: &[String]) -> String {
    let named = started_without.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    let more = started_without.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("containers that request secrets run without the hook: {named}{more}")
}

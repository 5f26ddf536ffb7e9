//! What is kept of a start that the hook refuses, for `oci-secrets explain --last`.

use std::process::ExitCode;

use jiff::Timestamp;

use super::call::PROGRAM;
use crate::container::State;
use crate::fault::{Class, Fault};
use crate::refusals::{self, Refused};
use crate::report;

/// Where containerd has the bundles of its containers, and Docker, which uses it, those of its own.
const BUNDLES_OF_CONTAINERD: &str = "/io.containerd.runtime";
const BUNDLES_OF_DOCKER: &str = "/io.containerd.runtime.v2.task/moby/";

/// The annotations that name a container and its pod: containerd's, and CRI-O's.
const NAMES: [[&str; 3]; 2] = [
    ["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.container-name"],
    ["io.kubernetes.pod.namespace", "io.kubernetes.pod.name", "io.kubernetes.container.name"],
];

/// The annotation by which nerdctl names its containers.
const NAME_OF_NERDCTL: &str = "nerdctl/name";

/// Prints, logs and keeps why a container does not start. The state is missing if the hook fails before it has one.
pub(super) fn refuse(state: Option<&State>, error: &dyn Fault) -> ExitCode {
    let code = report::failed(PROGRAM, state.and_then(|state| state.id().ok()), error);
    let (text, hint) = report::texts(error);
    keep(state, text, hint, error.class());
    code
}

/// Keeps a panic, which ends the program where it is.
pub(super) fn keep_panic(error: &dyn Fault) {
    let (text, hint) = report::texts(error);
    keep(None, text, hint, error.class());
}

fn keep(state: Option<&State>, error: String, hint: Option<String>, class: Class) {
    refusals::keep(Refused {
        time: Timestamp::now(),
        container: state.and_then(|state| state.id().ok()).map(str::to_owned),
        name: state.and_then(name),
        engine: state.and_then(engine).map(str::to_owned),
        error,
        hint,
        exit_code: class as u8,
    });
}

fn name(state: &State) -> Option<String> {
    let annotations = state.annotations();
    let of_pod = |keys: [&str; 3]| {
        let parts = keys.map(|key| annotations.get(key).map(String::as_str));
        let [Some(_), Some(_), Some(_)] = parts else { return None };
        Some(parts.into_iter().flatten().collect::<Vec<_>>().join("/"))
    };
    NAMES.into_iter().find_map(of_pod).or_else(|| annotations.get(NAME_OF_NERDCTL).cloned())
}

fn engine(state: &State) -> Option<&'static str> {
    let bundle = state.bundle().ok().and_then(|bundle| bundle.to_str()).unwrap_or_default();
    match state.annotations().get("io.container.manager").map(String::as_str) {
        Some("libpod") => Some("podman"),
        Some("cri-o") => Some("CRI-O"),
        _ if bundle.contains(BUNDLES_OF_DOCKER) => Some("Docker"),
        _ if bundle.contains(BUNDLES_OF_CONTAINERD) => Some("containerd"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn shows_the_engine_that_gave_a_state() {
        let states = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/states");
        for (fixture, expected) in [
            ("containerd-1.7.24.json", Some("containerd")),
            ("podman-5.4.2-crun.json", Some("podman")),
            ("runc-1.1.15.json", None),
        ] {
            let state = State::read(std::fs::File::open(states.join(fixture)).unwrap()).unwrap();
            assert_eq!((engine(&state), name(&state)), (expected, None), "{fixture}");
        }
        for (json, expected) in [
            (r#"{"bundle":"/run/containerd/io.containerd.runtime.v2.task/moby/4f2a"}"#, (Some("Docker"), None)),
            (
                r#"{"annotations":{"io.container.manager":"cri-o","io.kubernetes.pod.namespace":"agents",
                    "io.kubernetes.pod.name":"billing-0","io.kubernetes.container.name":"app"}}"#,
                (Some("CRI-O"), Some("agents/billing-0/app")),
            ),
            (
                r#"{"bundle":"/run/containerd/io.containerd.runtime.v2.task/k8s.io/4f2a","annotations":{
                    "io.kubernetes.cri.sandbox-namespace":"agents","io.kubernetes.cri.sandbox-name":"billing-0",
                    "io.kubernetes.cri.container-name":"app"}}"#,
                (Some("containerd"), Some("agents/billing-0/app")),
            ),
            (r#"{"annotations":{"nerdctl/name":"agent"}}"#, (None, Some("agent"))),
        ] {
            let state = State::read(json.as_bytes()).unwrap();
            assert_eq!((engine(&state), name(&state).as_deref()), expected, "{json}");
        }
    }
}

//! The messages of NRI, as far as they are used. A decoder ignores fields that are not listed.
//!
//! The names and the numbers of fields are those of
//! [api.proto](https://github.com/containerd/nri/blob/main/pkg/api/api.proto).

use std::collections::BTreeMap;

use prost::Message;

/// The service of the runtime, which a plugin calls.
pub const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";
/// The service of a plugin, which the runtime calls.
pub const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";

/// What a plugin is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A pod was removed.
    RemovePodSandbox = 3,
    /// A container is about to be created: a plugin may adjust it.
    CreateContainer = 4,
    /// A container was removed.
    RemoveContainer = 11,
    /// All adjustments are known: a plugin may refuse them. Runtimes with NRI before 0.10 refuse a plugin that subscribes to it.
    ValidateContainerAdjustment = 14,
}

impl Event {
    /// The bit of the event in the mask of [`ConfigureResponse`].
    pub const fn bit(self) -> i32 {
        1 << (self as i32 - 1)
    }
}

/// The first message of a plugin.
#[derive(Clone, PartialEq, Message)]
pub struct RegisterPluginRequest {
    /// The name.
    #[prost(string, tag = "1")]
    pub plugin_name: String,
    /// Two digits: plugins are called in this order.
    #[prost(string, tag = "2")]
    pub plugin_idx: String,
}

/// The first call of a runtime.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigureRequest {
    /// Its name.
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub runtime_version: String,
    /// Its version of NRI; empty before NRI 0.12.
    #[prost(string, tag = "6")]
    pub nri_version: String,
}

/// The events that a plugin subscribes to.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigureResponse {
    /// A mask of [`Event::bit`].
    #[prost(int32, tag = "2")]
    pub events: i32,
}

/// All that runs already.
#[derive(Clone, PartialEq, Message)]
pub struct SynchronizeRequest {
    /// The pods.
    #[prost(message, repeated, tag = "1")]
    pub pods: Vec<PodSandbox>,
    /// Their containers.
    #[prost(message, repeated, tag = "2")]
    pub containers: Vec<Container>,
    /// Whether another request continues the lists.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// The answer to [`SynchronizeRequest`].
#[derive(Clone, PartialEq, Message)]
pub struct SynchronizeResponse {
    /// Whether the plugin has understood that the lists continue.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// A pod, and a container of it: the request of most events.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerRequest {
    /// The pod.
    #[prost(message, optional, tag = "1")]
    pub pod: Option<PodSandbox>,
    /// The container.
    #[prost(message, optional, tag = "2")]
    pub container: Option<Container>,
}

/// The answer to [`Event::CreateContainer`].
#[derive(Clone, PartialEq, Message)]
pub struct CreateContainerResponse {
    /// What is to be changed.
    #[prost(message, optional, tag = "1")]
    pub adjust: Option<ContainerAdjustment>,
}

/// An event without a method of its own.
#[derive(Clone, PartialEq, Message)]
pub struct StateChangeEvent {
    /// The number of the event.
    #[prost(int32, tag = "1")]
    pub event: i32,
    /// The pod.
    #[prost(message, optional, tag = "2")]
    pub pod: Option<PodSandbox>,
    /// The container.
    #[prost(message, optional, tag = "3")]
    pub container: Option<Container>,
}

/// The request of [`Event::ValidateContainerAdjustment`].
#[derive(Clone, PartialEq, Message)]
pub struct ValidateContainerAdjustmentRequest {
    /// The pod.
    #[prost(message, optional, tag = "1")]
    pub pod: Option<PodSandbox>,
    /// The container as it was before any plugin changed it.
    #[prost(message, optional, tag = "2")]
    pub container: Option<Container>,
    /// The changes of all plugins.
    #[prost(message, optional, tag = "3")]
    pub adjust: Option<ContainerAdjustment>,
}

/// The answer to [`ValidateContainerAdjustmentRequest`].
#[derive(Clone, PartialEq, Message)]
pub struct ValidateContainerAdjustmentResponse {
    /// Whether the container is refused.
    #[prost(bool, tag = "1")]
    pub reject: bool,
    /// Why.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// A pod. Only its labels and annotations are its author's choice, next to its name.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandbox {
    /// The id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The uid that Kubernetes gave it.
    #[prost(string, tag = "3")]
    pub uid: String,
    /// The namespace.
    #[prost(string, tag = "4")]
    pub namespace: String,
    /// The labels.
    #[prost(btree_map = "string, string", tag = "5")]
    pub labels: BTreeMap<String, String>,
    /// The annotations.
    #[prost(btree_map = "string, string", tag = "6")]
    pub annotations: BTreeMap<String, String>,
}

/// A container.
#[derive(Clone, PartialEq, Message)]
pub struct Container {
    /// The id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The id of its pod.
    #[prost(string, tag = "2")]
    pub pod_sandbox_id: String,
    /// The name in the pod.
    #[prost(string, tag = "3")]
    pub name: String,
    /// [`STOPPED`], or another state.
    #[prost(int32, tag = "4")]
    pub state: i32,
    /// Its own annotations; under CRI-O those of the pod, too.
    #[prost(btree_map = "string, string", tag = "6")]
    pub annotations: BTreeMap<String, String>,
    /// The hooks of the base spec, and those of plugins that were called before.
    #[prost(message, optional, tag = "10")]
    pub hooks: Option<Hooks>,
}

/// The state of a container whose process has ended.
pub const STOPPED: i32 = 4;

/// Changes of a container that is being created.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerAdjustment {
    /// More annotations. The runtime refuses a container for which two plugins set the same one.
    #[prost(btree_map = "string, string", tag = "2")]
    pub annotations: BTreeMap<String, String>,
    /// More hooks.
    #[prost(message, optional, tag = "5")]
    pub hooks: Option<Hooks>,
}

/// Hooks, by stage.
#[derive(Clone, PartialEq, Message)]
pub struct Hooks {
    /// Those of the older stage at the same time.
    #[prost(message, repeated, tag = "1")]
    pub prestart: Vec<Hook>,
    /// Those that run when the namespaces exist, before the runtime pivots the root.
    #[prost(message, repeated, tag = "2")]
    pub create_runtime: Vec<Hook>,
}

/// One hook.
#[derive(Clone, PartialEq, Message)]
pub struct Hook {
    /// The program.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Its arguments, the name first.
    #[prost(string, repeated, tag = "2")]
    pub args: Vec<String>,
    /// Its environment.
    #[prost(string, repeated, tag = "3")]
    pub env: Vec<String>,
    /// After how many seconds the runtime kills it.
    #[prost(message, optional, tag = "4")]
    pub timeout: Option<OptionalInt>,
}

/// A number that may be absent.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct OptionalInt {
    /// The number.
    #[prost(int64, tag = "1")]
    pub value: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_the_bit_below_its_number() {
        assert_eq!(Event::CreateContainer.bit(), 0x8);
        assert_eq!(Event::ValidateContainerAdjustment.bit(), 0x2000);
    }

    #[test]
    fn other_fields_are_ignored() {
        // args (7) and created_at (14), which are not listed, around the name.
        let bytes = b"\x3a\x02sh\x1a\x03app\x70\x05";
        let container = Container { name: "app".into(), ..Container::default() };
        assert_eq!(Container::decode(bytes.as_slice()), Ok(container));
    }
}

//! The calls of a runtime: each is decoded, given to the plugin, and answered.

use prost::{DecodeError, Message};

use super::api::{
    ConfigureRequest, ConfigureResponse, Container, ContainerAdjustment, ContainerRequest, CreateContainerResponse,
    Event, PLUGIN_SERVICE, PodSandbox, StateChangeEvent, SynchronizeRequest, SynchronizeResponse,
    ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
};
use super::ttrpc::{Code, Request, Response};

/// What a runtime calls.
pub trait Plugin {
    /// The runtime introduces itself. Returns the events to subscribe to, a mask of [`Event::bit`].
    fn configure(&mut self, runtime: ConfigureRequest) -> i32;

    /// All pods and containers that exist. From now on, events arrive.
    fn synchronize(&mut self, pods: Vec<PodSandbox>, containers: Vec<Container>);

    /// A container is about to be created. Returns what to change.
    fn create_container(&mut self, pod: PodSandbox, container: Container) -> Option<ContainerAdjustment>;

    /// All changes to a container are known.
    ///
    /// # Errors
    /// The container must not be created; the text is shown to its owner.
    fn validate(
        &mut self,
        pod: &PodSandbox,
        container: &Container,
        adjustment: Option<&ContainerAdjustment>,
    ) -> Result<(), String>;

    /// A container was removed.
    fn container_removed(&mut self, container: &str);

    /// A pod was removed.
    fn pod_removed(&mut self, pod: &str);
}

/// The calls of one connection.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// What the parts of a synchronization so far had.
    existing: SynchronizeRequest,
    is_synchronized: bool,
}

impl Calls {
    /// Whether the plugin knows what exists.
    pub(super) fn is_synchronized(&self) -> bool {
        self.is_synchronized
    }

    /// The answer to a call.
    pub(super) fn answer(&mut self, call: Request, plugin: &mut impl Plugin) -> Response {
        if call.service != PLUGIN_SERVICE {
            return Response::error(Code::Unimplemented, format!("no service {:.120?}", call.service));
        }
        match self.call(&call.method, call.payload.as_slice(), plugin) {
            Ok(payload) => Response { status: None, payload },
            Err(error) => Response::error(error.code(), error.to_string()),
        }
    }

    fn call(&mut self, method: &str, payload: &[u8], plugin: &mut impl Plugin) -> Result<Vec<u8>, CallError> {
        match method {
            "Configure" => Ok(configure(ConfigureRequest::decode(payload)?, plugin)),
            "Synchronize" => Ok(self.synchronize(SynchronizeRequest::decode(payload)?, plugin)),
            "CreateContainer" => create(ContainerRequest::decode(payload)?, plugin),
            "ValidateContainerAdjustment" => validate(ValidateContainerAdjustmentRequest::decode(payload)?, plugin),
            "RemoveContainer" => Ok(changed(Event::RemoveContainer, ContainerRequest::decode(payload)?, plugin)),
            "RemovePodSandbox" => Ok(changed(Event::RemovePodSandbox, ContainerRequest::decode(payload)?, plugin)),
            // Older runtimes report the last two by this one.
            "StateChange" => Ok(state_changed(StateChangeEvent::decode(payload)?, plugin)),
            "Shutdown" => Ok(Vec::new()),
            _ => Err(CallError::Method { method: method.to_owned() }),
        }
    }

    fn synchronize(&mut self, part: SynchronizeRequest, plugin: &mut impl Plugin) -> Vec<u8> {
        let more = part.more;
        self.existing.pods.extend(part.pods);
        self.existing.containers.extend(part.containers);
        if !more {
            let SynchronizeRequest { pods, containers, .. } = std::mem::take(&mut self.existing);
            plugin.synchronize(pods, containers);
            self.is_synchronized = true;
        }
        SynchronizeResponse { more }.encode_to_vec()
    }
}

fn configure(runtime: ConfigureRequest, plugin: &mut impl Plugin) -> Vec<u8> {
    ConfigureResponse { events: plugin.configure(runtime) }.encode_to_vec()
}

fn create(request: ContainerRequest, plugin: &mut impl Plugin) -> Result<Vec<u8>, CallError> {
    let (pod, container) = both(request.pod, request.container)?;
    Ok(CreateContainerResponse { adjust: plugin.create_container(pod, container) }.encode_to_vec())
}

fn validate(request: ValidateContainerAdjustmentRequest, plugin: &mut impl Plugin) -> Result<Vec<u8>, CallError> {
    let (pod, container) = both(request.pod, request.container)?;
    let reason = plugin.validate(&pod, &container, request.adjust.as_ref()).err();
    let answer = ValidateContainerAdjustmentResponse { reject: reason.is_some(), reason: reason.unwrap_or_default() };
    Ok(answer.encode_to_vec())
}

fn state_changed(StateChangeEvent { event, pod, container }: StateChangeEvent, plugin: &mut impl Plugin) -> Vec<u8> {
    let events = [Event::RemoveContainer, Event::RemovePodSandbox];
    match events.into_iter().find(|known| *known as i32 == event) {
        Some(event) => changed(event, ContainerRequest { pod, container }, plugin),
        None => Vec::new(),
    }
}

fn changed(event: Event, request: ContainerRequest, plugin: &mut impl Plugin) -> Vec<u8> {
    match (event, request) {
        (Event::RemoveContainer, ContainerRequest { container: Some(container), .. }) => {
            plugin.container_removed(&container.id);
        }
        (Event::RemovePodSandbox, ContainerRequest { pod: Some(pod), .. }) => plugin.pod_removed(&pod.id),
        _ => {}
    }
    Vec::new()
}

/// Nothing can be decided about a container without a pod.
fn both(pod: Option<PodSandbox>, container: Option<Container>) -> Result<(PodSandbox, Container), CallError> {
    pod.zip(container).ok_or(CallError::Incomplete)
}

/// Why a call gets an error as its answer.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("the plugin has no method {method:.120?}")]
    Method { method: String },
    #[error("the plugin cannot decode the call")]
    Undecodable(#[from] DecodeError),
    #[error("the call lacks a pod or a container")]
    Incomplete,
}

impl CallError {
    fn code(&self) -> Code {
        match self {
            CallError::Method { .. } => Code::Unimplemented,
            CallError::Undecodable(_) | CallError::Incomplete => Code::InvalidArgument,
        }
    }
}

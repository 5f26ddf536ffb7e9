//! The runtime's end of NRI, as containerd's adaptation does it. `tests/nri` shows the same on containerd.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_secrets::nri::api::{
    ConfigureRequest, ConfigureResponse, Container, ContainerRequest, CreateContainerResponse, Hooks, PLUGIN_SERVICE,
    PodSandbox, RUNTIME_SERVICE, RegisterPluginRequest, SynchronizeRequest, SynchronizeResponse,
};
use oci_secrets::nri::trunk::{PLUGIN, RUNTIME};
use oci_secrets::nri::ttrpc::{self, Content, Decoder, Request, Response, Status};
use prost::Message;

/// The deadline of everything that a plugin does.
const PATIENCE: Duration = Duration::from_secs(60);

/// A socket to which plugins connect.
pub(crate) struct Runtime {
    listener: UnixListener,
    path: PathBuf,
}

/// A plugin that has registered.
pub(crate) struct Plugin {
    stream: UnixStream,
    answers: Decoder,
    next_stream: u32,
    /// `10-oci-secrets`
    pub(crate) name: String,
}

impl Runtime {
    pub(crate) fn listen(path: &Path) -> Runtime {
        let _ = std::fs::remove_file(path);
        Runtime { listener: UnixListener::bind(path).unwrap(), path: path.to_owned() }
    }

    /// Waits for a plugin, and lets it register.
    pub(crate) fn accept(&self) -> Plugin {
        self.listener.set_nonblocking(true).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) => assert!(Instant::now() < deadline, "no plugin connects"),
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut plugin = Plugin { stream, answers: Decoder::default(), next_stream: 1, name: String::new() };
        plugin.register();
        plugin
    }

    /// Waits for a plugin, registers it, and gives it the state of a runtime without containers.
    pub(crate) fn admit(&self) -> Plugin {
        let mut plugin = self.accept();
        plugin.configure("");
        plugin.synchronize(&[], &[]);
        plugin
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Plugin {
    fn register(&mut self) {
        let mut calls = Decoder::default();
        let received = loop {
            match self.receive() {
                Some((RUNTIME, payload)) => calls.push(&payload),
                other => panic!("expected a registration, found {other:?}"),
            }
            if let Some(received) = calls.next_message() {
                break received;
            }
        };
        let Content::Request(call) = received.content else { panic!("{received:?}") };
        assert_eq!((call.service.as_str(), call.method.as_str()), (RUNTIME_SERVICE, "RegisterPlugin"));
        let RegisterPluginRequest { plugin_name, plugin_idx } =
            RegisterPluginRequest::decode(&call.payload[..]).unwrap();
        self.name = format!("{plugin_idx}-{plugin_name}");
        self.send(RUNTIME, &ttrpc::response(received.stream, &Response::default()));
    }

    /// The events that the plugin subscribes to, as a mask.
    pub(crate) fn configure(&mut self, nri_version: &str) -> i32 {
        self.configure_as("stand-in", "v1", nri_version)
    }

    /// The same for the name and the version of a runtime.
    pub(crate) fn configure_as(&mut self, name: &str, version: &str, nri_version: &str) -> i32 {
        let [runtime_name, runtime_version, nri_version] = [name, version, nri_version].map(str::to_owned);
        let request = ConfigureRequest { runtime_name, runtime_version, nri_version };
        self.call::<ConfigureResponse>("Configure", &request).unwrap().events
    }

    pub(crate) fn synchronize(&mut self, pods: &[PodSandbox], containers: &[Container]) {
        let request = SynchronizeRequest { pods: pods.to_vec(), containers: containers.to_vec(), more: false };
        assert!(!self.call::<SynchronizeResponse>("Synchronize", &request).unwrap().more);
    }

    /// Calls a method of the plugin.
    pub(crate) fn call<A: Message + Default>(&mut self, method: &str, request: &impl Message) -> Result<A, Status> {
        self.call_with(method, request.encode_to_vec())
    }

    /// The same with any bytes.
    pub(crate) fn call_with<A: Message + Default>(&mut self, method: &str, payload: Vec<u8>) -> Result<A, Status> {
        let request = Request { service: PLUGIN_SERVICE.into(), method: method.into(), payload };
        let stream = self.next_stream();
        self.send(PLUGIN, &ttrpc::request(stream, &request));
        self.answer(stream)
    }

    pub(crate) fn next_stream(&mut self) -> u32 {
        self.next_stream += 2;
        self.next_stream - 2
    }

    /// The answer to the call on a stream.
    pub(crate) fn answer<A: Message + Default>(&mut self, stream: u32) -> Result<A, Status> {
        loop {
            if let Some(received) = self.answers.next_message() {
                assert_eq!(received.stream, stream, "answers come in order");
                let Content::Response(Response { status, payload }) = received.content else { panic!() };
                return match status {
                    Some(status) if status.code != 0 => Err(status),
                    _ => Ok(A::decode(&payload[..]).unwrap()),
                };
            }
            match self.receive() {
                Some((PLUGIN, payload)) => self.answers.push(&payload),
                other => panic!("expected an answer, found {other:?}"),
            }
        }
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, connection: u32, payload: &[u8]) {
        let frame = [&connection.to_be_bytes(), &(payload.len() as u32).to_be_bytes(), payload].concat();
        self.send_bytes(&frame);
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Waits until the plugin closes the connection.
    pub(crate) fn wait_until_closed(&mut self) {
        assert_eq!(self.receive(), None);
    }

    fn receive(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut head = [0; 8];
        self.stream.read_exact(&mut head).ok()?;
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        assert!(number(4) <= 4096, "containerd cannot read a frame of {} bytes", number(4));
        let mut payload = vec![0; number(4) as usize];
        self.stream.read_exact(&mut payload).ok()?;
        Some((number(0), payload))
    }
}

/// Lets plugins adjust a container, one after the other. Each sees what those before it have changed.
///
/// # Errors
/// Two of them set the same annotation, or one of them refuses the container.
pub(crate) fn create(plugins: &mut [Plugin], pod: &PodSandbox, container: &Container) -> Result<Container, String> {
    let mut container = container.clone();
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    for plugin in plugins {
        let request = ContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
        let answer: CreateContainerResponse = plugin.call("CreateContainer", &request).map_err(|s| s.message)?;
        let adjust = answer.adjust.unwrap_or_default();
        for (key, value) in adjust.annotations {
            if let Some(other) = owners.insert(key.clone(), plugin.name.clone()) {
                return Err(format!("plugins {:?} and {other:?} both tried to set annotation {key}", plugin.name));
            }
            container.annotations.insert(key, value);
        }
        let Hooks { prestart, create_runtime } = adjust.hooks.unwrap_or_default();
        let hooks = container.hooks.get_or_insert_with(Hooks::default);
        hooks.prestart.extend(prestart);
        hooks.create_runtime.extend(create_runtime);
    }
    Ok(container)
}

//! One connection to a runtime: registers a plugin, and answers the runtime's calls until the connection ends.
//!
//! ```text
//! plugin ── RegisterPlugin ──► runtime
//!        ◄── Configure ─────            events that the plugin subscribes to
//!        ◄── Synchronize ───            what runs already
//!        ◄── CreateContainer ─          one call for each event
//! ```
//!
//! Calls are answered in the order in which they arrive, one at a time. A call that cannot be decoded gets an error, which makes the
//! runtime refuse the container. If the connection ended instead, the runtime would create the container without the plugin.

use std::convert::Infallible;
use std::time::Duration;

use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::api::{RUNTIME_SERVICE, RegisterPluginRequest};
use super::calls::{Calls, Plugin};
use super::error::ConnectionError;
use super::trunk::{PLUGIN, RUNTIME, Trunk};
use super::ttrpc::{self, Content, Decoder, Request, Response};

/// The stream of our only call.
const REGISTER_STREAM: u32 = 1;

/// The name of a plugin, and two digits for its place among others.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    /// The digits.
    pub index: &'static str,
    /// The name.
    pub name: &'static str,
}

/// Registers a plugin and serves the runtime. The registration, with the first synchronization, must be done `within` this time.
///
/// # Errors
/// Why the connection ended.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    name: Name,
    within: Duration,
    plugin: &mut impl Plugin,
) -> Result<Infallible, ConnectionError> {
    let mut connection = Connection {
        trunk: Trunk::new(stream),
        calls: Calls::default(),
        from_runtime: Decoder::default(),
        to_runtime: Decoder::default(),
    };
    let deadline = Instant::now() + within;
    connection.register(name).await?;
    while !connection.calls.is_synchronized() {
        let step = timeout_at(deadline, connection.step(plugin)).await;
        step.unwrap_or(Err(ConnectionError::NotRegistered { within }))?;
    }
    loop {
        connection.step(plugin).await?;
    }
}

struct Connection<S> {
    trunk: Trunk<S>,
    calls: Calls,
    /// The connection on which the runtime calls us.
    from_runtime: Decoder,
    /// The connection on which we call the runtime, and it answers.
    to_runtime: Decoder,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn register(&mut self, Name { index, name }: Name) -> Result<(), ConnectionError> {
        let request = RegisterPluginRequest { plugin_name: name.into(), plugin_idx: index.into() };
        let call = Request {
            service: RUNTIME_SERVICE.into(),
            method: "RegisterPlugin".into(),
            payload: request.encode_to_vec(),
        };
        self.trunk.send(RUNTIME, &ttrpc::request(REGISTER_STREAM, &call)).await
    }

    /// Receives one frame, and answers the calls that it completes.
    async fn step(&mut self, plugin: &mut impl Plugin) -> Result<(), ConnectionError> {
        match self.trunk.receive().await? {
            (PLUGIN, payload) => self.from_runtime.push(payload),
            (RUNTIME, payload) => self.to_runtime.push(payload),
            _ => {}
        }
        while let Some(received) = self.to_runtime.next_message() {
            if let Content::Response(response) = received.content {
                response.into_payload().map_err(|reason| ConnectionError::Refused { reason })?;
            }
        }
        while let Some(received) = self.from_runtime.next_message() {
            let answer = match received.content {
                Content::Request(request) => self.calls.answer(request, plugin),
                Content::Unusable(code) => Response::error(code, "cannot use the call".into()),
                Content::Response(_) | Content::Other => continue,
            };
            self.trunk.send(PLUGIN, &ttrpc::response(received.stream, &answer)).await?;
        }
        Ok(())
    }
}

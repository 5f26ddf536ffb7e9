//! A connection of the broker's, with its runtime.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::limits::{Share, Slot};
use super::protocol::MESSAGE_BYTES_MAX;
use super::wire::{Descriptor, Incoming, Outgoing, WireError, is_over};

/// The longest time in which a peer takes nothing of an answer.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that was accepted.
pub struct Connection {
    socket: Option<UnixStream>,
    slot: Arc<Slot>,
}

impl Connection {
    /// Serves this socket, which the limits have admitted.
    pub fn new(socket: UnixStream, slot: Slot) -> Connection {
        Connection { socket: Some(socket), slot: Arc::new(slot) }
    }

    /// Waits until it is the turn of this connection among those of its user.
    pub async fn turn(&self) {
        // A sleep that is over takes until the next tick all the same: a millisecond of each start.
        let turn = self.slot.turn();
        if turn > Instant::now() {
            sleep_until(turn).await;
        }
    }

    /// Receives a request, within this time.
    ///
    /// # Errors
    /// None arrives, or one that cannot be parsed.
    pub async fn receive_request<T: DeserializeOwned>(
        &self,
        max: usize,
        until: Instant,
    ) -> io::Result<(T, Option<Descriptor>, Share)> {
        let mut incoming = Incoming::of(&self.slot, max);
        let receive = async {
            self.step(Interest::READABLE, |socket| incoming.receive_head(socket)).await?;
            let share = self.slot.memory(incoming.length()?.unwrap_or(max)).await.ok_or(io::ErrorKind::OutOfMemory)?;
            self.step(Interest::READABLE, |socket| incoming.receive(socket)).await?;
            Ok::<_, io::Error>(share)
        };
        let share = timeout_at(until, receive).await??;
        let (message, descriptor) = incoming.parse()?;
        Ok((message, descriptor, share))
    }

    /// Receives any other message, within this time.
    ///
    /// # Errors
    /// None arrives, or one that cannot be parsed.
    pub async fn receive<T: DeserializeOwned>(&self, until: Instant) -> io::Result<(T, Option<Descriptor>)> {
        let mut incoming = Incoming::of(&self.slot, MESSAGE_BYTES_MAX);
        timeout_at(until, self.step(Interest::READABLE, |socket| incoming.receive(socket))).await??;
        Ok(incoming.parse()?)
    }

    /// Sends a message, with a descriptor.
    ///
    /// # Errors
    /// The peer is gone, or takes nothing.
    pub async fn send(&self, message: &impl Serialize, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send_all(Outgoing::new(message, descriptor, MESSAGE_BYTES_MAX)?).await
    }

    /// Sends the version of the protocol to a peer with another one.
    pub async fn send_version(&self, error: &io::Error) {
        if let Some(WireError::Version { .. }) = WireError::of(error) {
            // A peer that has gone does not need it.
            let _ = self.send_all(Outgoing::version()).await;
        }
    }

    async fn send_all(&self, mut outgoing: Outgoing<'_>) -> io::Result<()> {
        let until = Instant::now() + SEND_TIMEOUT;
        timeout_at(until, self.step(Interest::WRITABLE, |socket| outgoing.send(socket))).await?
    }

    /// Whether the peer has closed it, or has sent what was not expected.
    pub fn is_over(&self) -> bool {
        self.socket.as_ref().is_none_or(|socket| is_over(socket.as_fd()))
    }

    async fn step(&self, ready: Interest, mut step: impl FnMut(BorrowedFd<'_>) -> io::Result<()>) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        socket.async_io(ready, || step(socket.as_fd())).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(Ok(socket)) = self.socket.take().map(UnixStream::into_std) {
            self.slot.close_later(socket.into());
        }
    }
}

//! The trunk: one socket that carries a connection in each direction.
//!
//! A frame is the number of the connection and the length of the payload, four bytes each, most significant first, and the payload. Nothing
//! opens a connection: both ends use the numbers.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::error::ConnectionError;
use super::ttrpc;

/// The connection on which the runtime calls the plugin.
pub const PLUGIN: u32 = 1;
/// The connection on which the plugin calls the runtime.
pub const RUNTIME: u32 = 2;

const HEAD_BYTES: usize = 8;

/// The largest payload that an end may send.
const PAYLOAD_BYTES_MAX: usize = ttrpc::HEAD_BYTES + ttrpc::MESSAGE_BYTES_MAX;

/// The largest payload that we send: the other end reads a frame into a buffer of this size, and fails if it does not fit.
const PAYLOAD_BYTES_SENT: usize = 4096;

/// A stream with frames.
pub struct Trunk<S> {
    stream: S,
    payload: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Trunk<S> {
    /// Frames on this stream.
    pub fn new(stream: S) -> Trunk<S> {
        Trunk { stream, payload: Vec::new() }
    }

    /// Waits for the next frame, and returns its connection and payload.
    ///
    /// # Errors
    /// The stream has ended, or the frame is too large.
    pub async fn receive(&mut self) -> Result<(u32, &[u8]), ConnectionError> {
        let mut head = [0; HEAD_BYTES];
        self.stream.read_exact(&mut head).await.map_err(read)?;
        let [c0, c1, c2, c3, l0, l1, l2, l3] = head;
        let (connection, length) =
            (u32::from_be_bytes([c0, c1, c2, c3]), u32::from_be_bytes([l0, l1, l2, l3]) as usize);
        if length > PAYLOAD_BYTES_MAX {
            return Err(ConnectionError::FrameTooLarge { found: length });
        }
        self.payload.clear();
        // The buffer grows with what arrives, not with what the head promises.
        let read_bytes = (&mut self.stream).take(length as u64).read_to_end(&mut self.payload).await.map_err(read)?;
        if read_bytes < length { Err(ConnectionError::Closed) } else { Ok((connection, &self.payload)) }
    }

    /// Sends a message on a connection.
    ///
    /// # Errors
    /// The stream cannot be written to.
    pub async fn send(&mut self, connection: u32, message: &[u8]) -> Result<(), ConnectionError> {
        let mut frames = Vec::with_capacity(message.len() + HEAD_BYTES);
        for payload in message.chunks(PAYLOAD_BYTES_SENT) {
            frames.extend(connection.to_be_bytes());
            // A chunk is not longer than 4096 bytes.
            frames.extend((payload.len() as u32).to_be_bytes());
            frames.extend(payload);
        }
        self.stream.write_all(&frames).await.map_err(|error| ConnectionError::Write { errno: error.into() })
    }
}

fn read(error: io::Error) -> ConnectionError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ConnectionError::Closed,
        _ => ConnectionError::Read { errno: error.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_message_is_sent_in_frames_that_the_other_end_can_read() {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let message: Vec<u8> = (0..10_000_u32).map(|i| i as u8).collect();
        block_on(async {
            Trunk::new(ours).send(RUNTIME, &message).await.unwrap();
            let mut trunk = Trunk::new(theirs);
            let (mut sizes, mut arrived) = (Vec::new(), Vec::new());
            while let Ok((connection, payload)) = trunk.receive().await {
                assert_eq!(connection, RUNTIME);
                sizes.push(payload.len());
                arrived.extend_from_slice(payload);
            }
            assert_eq!((sizes, arrived), (vec![4096, 4096, 1808], message));
        });
    }

    #[test]
    fn ends_with_the_stream_and_at_a_frame_that_is_too_large() {
        let receive = |bytes: &'static [u8]| {
            let (ours, mut theirs) = tokio::io::duplex(64);
            block_on(async {
                theirs.write_all(bytes).await.unwrap();
                drop(theirs);
                Trunk::new(ours).receive().await.map(|(connection, _)| connection)
            })
        };
        assert_eq!(receive(&[0, 0, 0, 1, 0, 0, 0, 1, 9]).unwrap(), PLUGIN);
        assert!(matches!(receive(&[]), Err(ConnectionError::Closed)));
        assert!(matches!(receive(&[0, 0, 0, 1]), Err(ConnectionError::Closed)));
        assert!(matches!(receive(&[0, 0, 0, 1, 0, 0, 0, 2, 9]), Err(ConnectionError::Closed)));
        let error = receive(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]).unwrap_err();
        assert!(matches!(error, ConnectionError::FrameTooLarge { found: 0xffff_ffff }));
    }
}

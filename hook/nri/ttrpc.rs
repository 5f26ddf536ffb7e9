//! ttrpc, the remote procedure calls of containerd: a head of ten bytes, and a message of protobuf.
//!
//! The crate `ttrpc` is not used: in November 2026, with prost, it needs `protoc` at build time, prost 0.13 next to our 0.14, and
//! vsock; its server spawns a task for each call, so that calls may be answered out of order. Unary calls alone take these lines.
//! The format is in [PROTOCOL.md](https://github.com/containerd/ttrpc/blob/main/PROTOCOL.md).

use prost::Message;

/// The largest message, in bytes, without its head.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// The bytes of a head: length, stream, type, flags.
pub const HEAD_BYTES: usize = 10;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// Codes of gRPC, for answers that are errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Any error of a plugin.
    Unknown = 2,
    /// The request cannot be decoded.
    InvalidArgument = 3,
    /// The request is too large.
    ResourceExhausted = 8,
    /// There is no such method.
    Unimplemented = 12,
}

/// A call.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// The name of the service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// The name of the method.
    #[prost(string, tag = "2")]
    pub method: String,
    /// The message.
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
}

/// The answer to a call.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// Why the call failed, if its code is not 0.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// The message.
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

/// The outcome of a call.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// 0, or a code of gRPC.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// What went wrong.
    #[prost(string, tag = "2")]
    pub message: String,
}

impl Response {
    /// An answer that is an error.
    pub fn error(code: Code, message: String) -> Response {
        Response { status: Some(Status { code: code as i32, message }), payload: Vec::new() }
    }

    /// The message, or what went wrong.
    ///
    /// # Errors
    /// The call failed.
    pub fn into_payload(self) -> Result<Vec<u8>, String> {
        match self.status {
            Some(Status { code, message }) if code != 0 => Err(message),
            _ => Ok(self.payload),
        }
    }
}

/// What arrives on a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The stream: calls have odd numbers, and an answer that of its call.
    pub stream: u32,
    /// The content.
    pub content: Content,
}

/// What a message contains.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A call.
    Request(Request),
    /// An answer.
    Response(Response),
    /// A call that cannot be decoded or is too large. It is answered, because a plugin that closes the connection is not asked about
    /// the container, which then starts.
    Unusable(Code),
    /// Neither a call nor an answer.
    Other,
}

/// Puts messages together from the bytes of a connection.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// How much is left of a message that is too large.
    skip: usize,
}

impl Decoder {
    /// Adds what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.bytes.extend_from_slice(bytes.get(skipped..).unwrap_or_default());
    }

    /// Takes the next message, if all of it has arrived.
    pub fn next_message(&mut self) -> Option<Received> {
        let (head, rest) = self.bytes.split_first_chunk::<HEAD_BYTES>()?;
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = *head;
        let (length, stream) = (u32::from_be_bytes([l0, l1, l2, l3]) as usize, u32::from_be_bytes([s0, s1, s2, s3]));
        if length > MESSAGE_BYTES_MAX {
            let skipped = length.min(rest.len());
            self.skip = length - skipped;
            self.bytes.drain(..HEAD_BYTES + skipped);
            return Some(Received { stream, content: Content::Unusable(Code::ResourceExhausted) });
        }
        let content = content(kind, rest.get(..length)?);
        self.bytes.drain(..HEAD_BYTES + length);
        Some(Received { stream, content })
    }
}

fn content(kind: u8, payload: &[u8]) -> Content {
    match kind {
        REQUEST => Request::decode(payload).map_or(Content::Unusable(Code::InvalidArgument), Content::Request),
        RESPONSE => match Response::decode(payload) {
            Ok(response) => Content::Response(response),
            Err(_) => Content::Response(Response::error(Code::Unknown, "the answer cannot be decoded".into())),
        },
        _ => Content::Other,
    }
}

/// The bytes of a call.
pub fn request(stream: u32, request: &Request) -> Vec<u8> {
    encode(stream, REQUEST, request)
}

/// The bytes of an answer.
pub fn response(stream: u32, response: &Response) -> Vec<u8> {
    encode(stream, RESPONSE, response)
}

fn encode(stream: u32, kind: u8, message: &impl Message) -> Vec<u8> {
    // Our own messages are far smaller than the limit.
    let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
    let mut bytes = [length.to_be_bytes(), stream.to_be_bytes()].concat();
    bytes.extend([kind, 0]);
    bytes.extend(message.encode_to_vec());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str) -> Request {
        Request { service: "s".into(), method: method.into(), payload: vec![7; 10] }
    }

    fn received(stream: u32, content: Content) -> Option<Received> {
        Some(Received { stream, content })
    }

    #[test]
    fn messages_arrive_in_any_pieces() {
        let bytes = [request(1, &call("a")), response(3, &Response::error(Code::Unknown, "x".into()))].concat();
        for size in 1..=bytes.len() {
            let mut decoder = Decoder::default();
            let mut messages = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                messages.extend(std::iter::from_fn(|| decoder.next_message()));
            }
            assert_eq!(messages.len(), 2, "{size}");
            assert_eq!(messages[0].content, Content::Request(call("a")));
            let Content::Response(response) = &messages[1].content else { unreachable!() };
            assert_eq!(response.clone().into_payload(), Err("x".to_owned()));
        }
    }

    #[test]
    fn a_call_that_is_too_large_is_skipped_and_the_next_one_is_read() {
        let length = MESSAGE_BYTES_MAX + 1;
        let head = [(length as u32).to_be_bytes(), 5_u32.to_be_bytes()].concat();
        let mut decoder = Decoder::default();
        decoder.push(&[&head[..], &[REQUEST, 0], &vec![1; length / 2]].concat());
        assert_eq!(decoder.next_message(), received(5, Content::Unusable(Code::ResourceExhausted)));
        assert_eq!(decoder.next_message(), None);
        decoder.push(&vec![1; length - length / 2]);
        decoder.push(&request(7, &call("next")));
        assert_eq!(decoder.next_message(), received(7, Content::Request(call("next"))));
    }

    #[test]
    fn what_cannot_be_decoded_is_known_by_its_stream() {
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 1, 0, 0, 0, 9, REQUEST, 0, 0xff]);
        assert_eq!(decoder.next_message(), received(9, Content::Unusable(Code::InvalidArgument)));
        decoder.push(&[0, 0, 0, 1, 0, 0, 0, 11, 77, 0, 0xff]);
        assert_eq!(decoder.next_message(), received(11, Content::Other));
    }
}

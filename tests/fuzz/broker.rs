//! Messages between the hook and the broker.

use std::io::{ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use oci_secrets::broker::protocol::{Answer, Found, Receipt, Report, Request, VERSION};
use oci_secrets::broker::wire::{Incoming, Outgoing};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::check;
use crate::generate::near;

const BYTES_MAX: usize = 4096;

const START: &str = r#"{"start":{"start":"00112233445566aa","container":"4f2a","bundle":"/run/b","annotations":{"run.secrets/db":"op://v/i/f"},"image":{"annotations":{}},"unusable":null,"milliseconds":1000}}"#;
const UNUSABLE: &str = r#"{"start":{"start":"00112233445566aa","container":"4f2a","bundle":"/run/b","annotations":{},"image":{"unknown":{"code":65,"message":"m","hint":"h"}},"unusable":{"code":71,"message":"m","hint":null},"milliseconds":0}}"#;
const REQUESTS: [&str; 5] =
    [START, UNUSABLE, r#""status""#, r#""forget""#, r#"{"running":{"container":"4f","reference":"op://v/i/f"}}"#];
const FOUND: [&str; 3] = [
    r#"{"container":{"user":{"uid":1000,"gid":1000},"label":null,"places":[{"path":"L2V0Yw==","directory":true}]}}"#,
    r#"{"container":{"user":null,"label":"l","places":[]}}"#,
    r#"{"refused":{"code":71,"message":"m","hint":null}}"#,
];
const ANSWERS: [&str; 7] = [
    r#"{"delivery":{"files":["db","key.pem"]}}"#,
    r#""nothing""#,
    r#"{"refused":{"code":77,"message":"no","hint":null}}"#,
    r#"{"running":{"containers":[{"container":"4f","generation":2,"since":"2026-01-01T00:00:00Z","checked":null,"error":"e"}],"count":1}}"#,
    r#"{"status":{"version":"0.1.0","settings":"/etc/s","grants":1,"connections":2,"source":null,"nri":null}}"#,
    r#""attached""#,
    r#""recorded""#,
];
const WORDS: [&str; 10] =
    ["null", "\"", "{", "}", "\\u0000", "{\"start\":1}", "18446744073709551616", "-1", "\"code\":0,", "\u{7f}"];

#[test]
fn a_request_that_is_understood_is_sent_again_as_it_was() {
    check!(12_000).with_generator(near(&REQUESTS, &WORDS)).for_each(|body| is_stable::<Request>(body));
}

#[test]
fn a_container_that_is_understood_is_sent_again_as_it_was() {
    check!(12_000).with_generator(near(&FOUND, &WORDS)).for_each(|body| is_stable::<Found>(body));
}

#[test]
fn an_answer_that_is_understood_is_sent_again_as_it_was() {
    check!(12_000).with_generator(near(&ANSWERS, &WORDS)).for_each(|body| {
        is_stable::<Answer>(body);
        is_stable::<Report>(body);
        is_stable::<Receipt>(body);
    });
}

#[test]
fn a_message_arrives_in_any_parts_and_ends_where_its_head_says() {
    let bodies: Vec<Vec<u8>> = REQUESTS.iter().map(|body| framed(body.as_bytes())).collect();
    let heads = ["OSB\u{1}", "OSB\u{2}", "\0\0\0\u{1}", "\0\0\u{10}\0", "OSC"];
    check!(8000).with_generator((near(&bodies, &heads), 1_usize..600)).for_each(|(bytes, size)| {
        let whole = receive::<Request>(bytes, bytes.len().max(1));
        assert_eq!(receive::<Request>(bytes, *size), whole);
        assert!(whole.is_ok() || !bodies.contains(bytes));
        if let Ok((_, left)) = whole {
            let length = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
            assert_eq!((&bytes[..4], left), (&[b'O', b'S', b'B', VERSION][..], bytes.len() - 8 - length));
            assert!(length <= BYTES_MAX);
        }
    });
}

/// A message with this body, if it is understood, is printed in a form that is understood and printed the same.
fn is_stable<T: Serialize + DeserializeOwned>(body: &[u8]) {
    let Ok((printed, _)) = receive::<T>(&framed(body), usize::MAX) else { return };
    let again = receive::<T>(&framed(printed.as_bytes()), usize::MAX).unwrap();
    assert_eq!(again.0, printed);
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&[b'O', b'S', b'B', VERSION][..], &(body.len() as u32).to_be_bytes(), body].concat()
}

/// The message that the broker reads from these bytes, printed, and how many bytes it leaves; or how it refuses them.
fn receive<T: Serialize + DeserializeOwned>(bytes: &[u8], part: usize) -> Result<(String, usize), String> {
    let (mut peer, socket) = UnixStream::pair().unwrap();
    let mut incoming = Incoming::new(BYTES_MAX);
    let mut sent = 0;
    let refused = |error: &std::io::Error| Err(format!("{:?} {error}", error.kind()));
    loop {
        match incoming.receive(socket.as_fd()) {
            Ok(()) => break,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return refused(&error),
            Err(error) if sent == bytes.len() => return refused(&error),
            Err(_) => {
                let end = sent.saturating_add(part).min(bytes.len());
                peer.write_all(&bytes[sent..end]).unwrap();
                sent = end;
            }
        }
    }
    socket.set_nonblocking(true).unwrap();
    let left = std::io::copy(&mut &socket, &mut std::io::sink()).err();
    assert!(left.is_none_or(|error| error.kind() == ErrorKind::WouldBlock));
    let (message, descriptor) = incoming.parse::<T>().map_err(|error| error.to_string())?;
    assert!(descriptor.is_none());
    let outgoing = Outgoing::new(&message, None, BYTES_MAX * 8);
    assert!(outgoing.is_ok());
    Ok((serde_json::to_string(&message).unwrap(), bytes.len() - 8 - length(bytes)))
}

fn length(bytes: &[u8]) -> usize {
    u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize
}

//! The frames of NRI, and what the plugin adds to a container.

use std::collections::BTreeMap;
use std::path::Path;

use bolero::ValueGenerator;
use bolero::generator::bolero_generator::driver::Driver;
use futures_util::FutureExt as _;
use oci_secrets::container::{Annotations, CHECK_ANNOTATIONS, Requests, is_identity};
use oci_secrets::nri::api::{Container, ContainerAdjustment, Hook, Hooks, PodSandbox};
use oci_secrets::nri::injection::{Injection, started_without, validate};
use oci_secrets::nri::trunk::Trunk;
use oci_secrets::nri::ttrpc::{Content, Decoder, Received, Request, Response, request, response};
use prost::Message as _;

use crate::engine::check;
use crate::generate::{list, near, once_in, pick, up_to};

const WORDS: [&str; 7] =
    ["\0\0\0\0", "\u{1}", "\u{2}", "\0\u{40}\0\u{1}", "\0\0\0\u{a}", "\u{7f}\u{7f}\u{7f}\u{7f}", "\u{a}\u{1}"];

#[test]
fn messages_are_decoded_in_parts_as_they_are_at_once() {
    let seeds = [
        // Longer than a message may be, so that it is skipped.
        [b"\0\x40\0\x01\0\0\0\x09\x01\0".as_slice(), b"x"].concat(),
        call(1, "CreateContainer", b"\x0a\x00"),
        call(3, "Configure", b""),
        answer(1),
        [call(5, "x", b"y"), answer(7)].concat(),
    ];
    check!(16_000).with_generator((near(&seeds, &WORDS), 1_usize..40)).for_each(|(bytes, size)| {
        let mut whole = Decoder::default();
        whole.push(bytes);
        let whole: Vec<Received> = std::iter::from_fn(|| whole.next_message()).collect();
        let mut decoder = Decoder::default();
        let parts = bytes.chunks(*size).flat_map(|part| {
            decoder.push(part);
            std::iter::from_fn(|| decoder.next_message()).collect::<Vec<_>>()
        });
        assert_eq!(parts.collect::<Vec<_>>(), whole);
    });
}

#[test]
fn a_message_is_decoded_as_it_was_encoded() {
    check!(8000).with_type().for_each(|(stream, method, payload): &(u32, String, Vec<u8>)| {
        let sent = Request { service: "s".into(), method: method.clone(), payload: payload.clone() };
        let mut decoder = Decoder::default();
        decoder.push(&request(*stream, &sent));
        assert_eq!(decoder.next_message(), Some(Received { stream: *stream, content: Content::Request(sent) }));
        let sent = Response { status: None, payload: payload.clone() };
        decoder.push(&response(*stream, &sent));
        assert_eq!(decoder.next_message(), Some(Received { stream: *stream, content: Content::Response(sent) }));
        assert_eq!(decoder.next_message(), None);
    });
}

#[test]
fn a_call_that_cannot_be_decoded_is_answered() {
    let seeds = [call(9, "CreateContainer", b"\x0a\x02\x0a\x00")];
    check!(12_000).with_generator(near(&seeds, &WORDS)).for_each(|bytes| {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        // The runtime creates the container if the plugin does not answer: every whole message of the kind of a call is one.
        let is_call = bytes.len() >= 10 && bytes[8] == 1;
        if let (true, Some(received)) = (is_call, decoder.next_message()) {
            assert!(matches!(received.content, Content::Request(_) | Content::Unusable(_)), "{received:?}");
            assert_eq!(received.stream.to_be_bytes(), bytes[4..8]);
        }
    });
}

#[test]
fn frames_carry_any_message() {
    check!(4000).with_type().for_each(|(connection, message): &(u32, Vec<u8>)| {
        let mut sent = std::io::Cursor::new(Vec::new());
        Trunk::new(&mut sent).send(*connection, message).now_or_never().unwrap().unwrap();
        sent.set_position(0);
        let mut trunk = Trunk::new(&mut sent);
        let mut found = Vec::new();
        while let Ok((from, payload)) = trunk.receive().now_or_never().unwrap() {
            assert_eq!(from, *connection);
            found.extend_from_slice(payload);
        }
        assert_eq!(found, *message);
    });
}

#[test]
fn a_container_that_requests_secrets_has_the_hook_and_all_annotations() {
    let injection = Injection::new(Path::new("/usr/libexec/oci-secrets-hook"), None);
    check!(12_000).with_generator(PodAndContainer).for_each(|(pod, container)| {
        let adjustment = injection.adjustment(pod, container);
        assert_eq!(validate(pod, container, adjustment.as_ref()), Ok(()));
        let created = adjusted(container, adjustment.as_ref());
        // Another instance of the plugin, as in a rolling update, has nothing to add.
        assert_eq!(injection.adjustment(pod, &created), None);
        assert_eq!(started_without(std::slice::from_ref(pod), std::slice::from_ref(&created)), [""; 0]);
        // What the hook would deliver to a container with the pod's annotations, it delivers, and never twice.
        let annotations = |of: &BTreeMap<String, String>| Annotations::new(of.clone());
        let mut all = pod.annotations.clone();
        // By a prefix an adjustment removes an annotation, and an identity is never taken from a pod's author.
        all.retain(|key, _| !key.starts_with('-') && !is_identity(key));
        all.extend(container.annotations.clone());
        let is_sandbox = annotations(&container.annotations).is_sandbox();
        if !is_sandbox && !matches!(Requests::from_annotations(&annotations(&all)), Ok(None)) {
            assert_eq!(hooks(&created), 1.max(hooks(container)));
        }
        if let Some(adjustment) = adjustment {
            assert!(adjustment.annotations.keys().all(|key| !container.annotations.contains_key(key)));
            assert!(adjustment.annotations.iter().all(|(key, value)| pod.annotations.get(key) == Some(value)));
        }
    });
}

fn call(stream: u32, method: &str, payload: &[u8]) -> Vec<u8> {
    let service = "nri.pkg.api.v1alpha1.Plugin".into();
    request(stream, &Request { service, method: method.into(), payload: payload.to_vec() })
}

fn answer(stream: u32) -> Vec<u8> {
    response(stream, &Response { status: None, payload: b"p".to_vec() })
}

/// How often the hook is called to deliver.
fn hooks(container: &Container) -> usize {
    let hooks = container.hooks.iter().flat_map(|hooks| hooks.prestart.iter().chain(&hooks.create_runtime));
    let delivers =
        |hook: &&Hook| hook.path.ends_with("/oci-secrets-hook") && !hook.args.contains(&CHECK_ANNOTATIONS.into());
    hooks.filter(delivers).count()
}

/// The container as the runtime creates it.
fn adjusted(container: &Container, adjustment: Option<&ContainerAdjustment>) -> Container {
    // As it arrives at the next plugin.
    let mut container = Container::decode(container.encode_to_vec().as_slice()).unwrap();
    if let Some(adjustment) = adjustment {
        container.annotations.extend(adjustment.annotations.clone());
        if let Some(more) = &adjustment.hooks {
            let hooks = container.hooks.get_or_insert_default();
            hooks.create_runtime.extend(more.create_runtime.clone());
        }
    }
    container
}

struct PodAndContainer;

impl ValueGenerator for PodAndContainer {
    type Output = (PodSandbox, Container);

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<(PodSandbox, Container)> {
        let mut hook = |driver: &mut D| {
            let path = (*pick(driver, &["/opt/oci-secrets-hook", "/usr/bin/other", "oci-secrets-hook/x"])?).to_owned();
            let args = if once_in(driver, 4)? { vec![CHECK_ANNOTATIONS.to_owned()] } else { Vec::new() };
            Some(Hook { path, args, ..Hook::default() })
        };
        let hooks = match up_to(driver, 2)? {
            0 => Some(Hooks { prestart: list(driver, 1, &mut hook)?, create_runtime: list(driver, 2, &mut hook)? }),
            _ => None,
        };
        let pod = PodSandbox { id: "p".into(), annotations: annotations(driver)?, ..PodSandbox::default() };
        let annotations = annotations(driver)?;
        Some((pod, Container { pod_sandbox_id: "p".into(), state: 3, annotations, hooks, ..Container::default() }))
    }
}

fn annotations<D: Driver>(driver: &mut D) -> Option<BTreeMap<String, String>> {
    let keys = [
        "run.secrets/db",
        "app.run.secrets/db",
        "run.secrets.owner",
        "-run.secrets/db",
        "Run.Secrets/db",
        "example.com/db",
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri.container-name",
        "io.kubernetes.pod.namespace",
    ];
    let values = ["op://v/i/f", "{{ op://v/i/f }}", " OP://v", "sandbox", "container", "app", "1:1", ""];
    let pairs =
        list(driver, 4, |driver| Some(((*pick(driver, &keys)?).to_owned(), (*pick(driver, &values)?).to_owned())))?;
    Some(pairs.into_iter().collect())
}

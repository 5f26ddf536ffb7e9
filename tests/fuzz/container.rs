//! What a runtime passes to the hook: the state, the spec and the annotations.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bolero::ValueGenerator;
use bolero::generator::bolero_generator::driver::Driver;
use oci_secrets::container::{Annotations, FILES_MAX, Owner, Requests, Spec, State, is_ours, is_reference};
use oci_secrets::json as strict;
use oci_secrets::report;
use serde_json::Value;

use crate::CANARY;
use crate::engine::check;
use crate::generate::{count_names, list, names_in, near, once_in, pick, up_to};

const SPEC: &str = r#"{"ociVersion":"1.0","root":{"path":"rootfs","readonly":true},"process":{"user":{"uid":1000,"gid":7},
"args":["sh","canary"],"env":["A=canary"],"cwd":"/"},"mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["ro"]}],
"linux":{"mountLabel":"l","namespaces":[{"type":"mount"},{"type":"pid","path":"/proc/1/ns/pid"}],"maskedPaths":["/proc/kcore"]},
"hooks":{"createRuntime":[{"path":"/usr/bin/oci-secrets-hook","args":["h"],"env":["B=canary"],"timeout":5}]}}"#;
const WORDS: [&str; 14] =
    ["null", "{", "}", "[", "]", "\"", ",", ":", "\\u0000", "\"id\":\"x\",", "\"PID\":1,", "\"canary\"", "-1", "{}"];

#[test]
fn a_state_means_the_same_to_any_parser() {
    let states = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/states")).unwrap();
    let mut seeds: Vec<Vec<u8>> = states.map(|state| fs::read(state.unwrap().path()).unwrap()).collect();
    // In a short one, more changes are where they matter.
    let short = br#"{"id":"x","pid":1,"bundle":"/b","annotations":{"a":"b"}}"#;
    seeds.extend(vec![short.to_vec(); seeds.len()]);
    check!(10_000).with_generator(near(&seeds, &WORDS)).for_each(|text| {
        let Ok(state) = State::read(text.as_slice()) else { return };
        let value: Value = serde_json::from_slice(text).unwrap();
        assert_eq!(state.id().ok(), value["id"].as_str().filter(|id| !id.is_empty()));
        assert_eq!(state.bundle().ok(), value["bundle"].as_str().map(Path::new).filter(|bundle| bundle.is_absolute()));
        let pid = state.pid().ok().map(|pid| i64::from(pid.as_raw_nonzero().get()));
        assert_eq!(pid, value["pid"].as_i64().filter(|pid| *pid > 0));
        let annotations = value["annotations"].as_object().map(|annotations| annotations.len()).unwrap_or_default();
        assert_eq!(state.annotations().len(), annotations);
        assert!(state.annotations().iter().all(|(key, text)| value["annotations"][key] == **text));
        // Go would take it for a field.
        let names = value.as_object().unwrap().keys();
        let fields = ["id", "pid", "bundle", "annotations"];
        assert!(names.into_iter().all(|name| fields.contains(&&**name) || !fields.contains(&&*name.to_lowercase())));
        assert!(!String::from_utf8_lossy(text).contains("\\u0000"));
    });
}

#[test]
fn a_spec_is_refused_without_a_word_of_what_a_process_gets() {
    let directory = tempfile::tempdir().unwrap();
    check!(3000).with_generator(near(&[SPEC], &WORDS[..11])).for_each(|text| {
        fs::write(directory.path().join("config.json"), text).unwrap();
        match Spec::load(directory.path()) {
            Ok(spec) => {
                assert!(spec.rootfs.is_absolute());
                let value: Value = serde_json::from_slice(text).unwrap();
                let user = value["process"]["user"].as_object();
                // A runtime, too, takes an id that is not there for 0.
                let id = |name: &str| user.map(|user| user.get(name).and_then(Value::as_u64).unwrap_or_default());
                assert_eq!(spec.user.map(|Owner { uid, gid }| (uid.into(), gid.into())), id("uid").zip(id("gid")));
            }
            Err(error) => assert!(!report::chain(&error).contains(CANARY), "{}", report::chain(&error)),
        }
    });
}

#[test]
fn strict_json_is_json_without_repeated_names() {
    let seeds = [SPEC, r#"{"a":{"b":[1,{"c":"x"}]}}"#, r#"{"a":1}"#, r#"[{"a":1,"b":{}}]"#];
    let words = [
        r#""a":1,"#,
        r#","a":{}"#,
        "\"\\u0061\":1,",
        "\\u0000",
        "\0",
        "{",
        "}",
        "[[[[",
        "]]]]",
        "1e999",
        "\\ud800",
        "\u{1f600}",
    ];
    check!(12_000).with_generator(near(&seeds, &words)).for_each(|text| {
        if let Ok(value) = strict::from_slice::<Value>(text) {
            // What another parser keeps is the same, whichever of two members it prefers.
            assert_eq!(serde_json::from_slice::<Value>(text).unwrap(), value);
            assert_eq!(count_names(&value), names_in(text), "{}", String::from_utf8_lossy(text));
            assert!(!value.to_string().contains("\\u0000"));
        }
    });
}

#[test]
fn no_request_is_overlooked() {
    check!(16_000).with_generator(Pairs).for_each(|pairs| {
        let annotations = Annotations::new(pairs.clone());
        let has_request = pairs.iter().any(|(key, value)| is_ours(key) || is_reference(value));
        match Requests::from_annotations(&annotations) {
            Err(error) => {
                assert!(has_request);
                report::chain(&error);
            }
            Ok(None) => assert!(wanted(pairs, &annotations).is_empty()),
            Ok(Some(requests)) => {
                assert!((1..=FILES_MAX).contains(&requests.files.len()));
                let wanted = wanted(pairs, &annotations);
                let files: BTreeSet<String> = requests.files.iter().map(|request| request.file.to_string()).collect();
                assert!(files.iter().eq(wanted.keys()), "{requests:?}");
                for request in &requests.files {
                    assert!(wanted[request.file.as_str()].contains(request.reference.as_str()), "{request:?}");
                }
                assert!(requests.owner.is_none_or(|owner| owner.uid != u32::MAX && owner.gid != u32::MAX));
            }
        }
    });
}

/// The values of the files for this container: those for it alone go before those for all of the pod.
fn wanted(pairs: &BTreeMap<String, String>, annotations: &Annotations) -> BTreeMap<String, String> {
    let name = annotations.container_name().ok().flatten().unwrap_or_default();
    let of = |prefix: String| {
        pairs.iter().filter_map(move |(key, value)| Some((key.strip_prefix(&prefix)?.to_owned(), value.clone())))
    };
    of("run.secrets/".into()).chain(of(format!("{name}.run.secrets/"))).collect()
}

#[test]
fn an_annotation_of_others_changes_no_request() {
    check!(8000).with_generator((Pairs, near(&["io.example/x", "description"], &["/", "."]))).for_each(
        |(pairs, key)| {
            let key = String::from_utf8_lossy(key).into_owned();
            if is_ours(&key) || key.starts_with("io.") || pairs.contains_key(&key) {
                return;
            }
            let before = Requests::from_annotations(&Annotations::new(pairs.clone()));
            let mut more = pairs.clone();
            more.insert(key, "text".into());
            assert_eq!(Requests::from_annotations(&Annotations::new(more)), before);
        },
    );
}

/// Annotations of a container.
struct Pairs;

impl ValueGenerator for Pairs {
    type Output = BTreeMap<String, String>;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<BTreeMap<String, String>> {
        // What each key expects; a value is often that of another.
        const KEYS: [(&str, &[&str]); 13] = [
            ("run.secrets/db", &["op://v/i/f", "op://v/i/s/f?attribute=otp", "a {{ op://v/i/f }} b"]),
            ("run.secrets/key.pem", &["op://v/i/key", "{{ \"{{\" }}", "{{"]),
            ("app.run.secrets/db", &["op://v/app/f"]),
            ("other.run.secrets/db", &["op://v/other/f"]),
            ("run.secrets.owner", &["1000:1000", "4294967295:0"]),
            ("run.secrets.optional", &["db", "db, key.pem"]),
            ("run.secrets.update", &["live"]),
            ("run.secrets.on-update", &["signal:HUP"]),
            ("run.secrets/.db", &["op://v/i/f"]),
            ("RUN.secrets/db", &["op://v/i/f"]),
            ("io.kubernetes.cri.container-name", &["app"]),
            ("io.container.manager", &["libpod"]),
            ("note", &["text", "op://v/i/f"]),
        ];
        let pair = |driver: &mut D| {
            let (key, mut values) = *pick(driver, &KEYS)?;
            if once_in(driver, 6)? {
                values = pick(driver, &KEYS)?.1;
            }
            let (mut key, mut value) = (key.to_owned(), (*pick(driver, values)?).to_owned());
            match up_to(driver, 19)? {
                0 => value.push(driver.produce()?),
                1 => key.push(driver.produce()?),
                _ => {}
            }
            Some((key, value))
        };
        Some(list(driver, 5, pair)?.into_iter().collect())
    }
}

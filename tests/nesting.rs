//! Deeply nested input, for each parser: it must not use up the stack, because a crash prints no message, and `annotate` no option
//! that stops an engine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};

use oci_secrets::audit::Line;
use oci_secrets::container::{Spec, State};
use oci_secrets::engine::{Engine, Host, has_hook};
use oci_secrets::envrc;
use oci_secrets::gateway::filter::Filter;
use oci_secrets::gateway::settings::Settings as GatewaySettings;
use oci_secrets::reference::Reference;
use oci_secrets::seal::kek::KekUri;
use oci_secrets::settings::{Pattern, Settings};

/// A parser that recurses without a limit needs more than [`STACK_BYTES`] for these.
const LEVELS: usize = 50_000;

/// A quarter of a thread's default stack.
const STACK_BYTES: usize = 512 * 1024;

/// Runs a test on a small stack, whose overflow ends the process.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(test).unwrap().join().unwrap();
}

fn nested(open: &str, close: &str) -> String {
    format!("{}{}", open.repeat(LEVELS), close.repeat(LEVELS))
}

/// A JSON value in each form that nests.
fn json() -> [String; 2] {
    [nested("[", "]"), format!("{}0{}", r#"{"a":"#.repeat(LEVELS), "}".repeat(LEVELS))]
}

fn written(directory: &Path, path: &str, text: &str) -> PathBuf {
    let path = directory.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_hook_reads_nested_json() {
    on_a_small_stack(|| {
        let directory = tempfile::tempdir().unwrap();
        for value in json() {
            assert!(State::read(format!(r#"{{"annotations":{value}}}"#).as_bytes()).is_err());
            // An unknown field may be one that the runtime reads: keys are checked in it, too.
            let unknown = format!(r#"{{"ociVersion":"1.0.2","id":"a","status":"created","bundle":"/b","x":{value}}}"#);
            assert!(State::read(unknown.as_bytes()).is_err());
            for spec in [&value, &format!(r#"{{"process":{value}}}"#), &format!(r#"{{"annotations":{value}}}"#)] {
                written(directory.path(), "config.json", spec);
                assert!(Spec::load(directory.path()).is_err());
            }
            for hooks in [&value, &format!(r#"{{"createRuntime":{value}}}"#)] {
                assert!(!has_hook(&format!(r#"{{"hooks":{hooks}}}"#)).unwrap_or_default());
            }
        }
    });
}

#[test]
fn engines_and_records_have_nested_json() {
    on_a_small_stack(|| {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::below(directory.path().to_owned());
        for value in json() {
            written(directory.path(), "etc/docker/daemon.json", &value);
            assert!(Engine::Docker.calls(&host).is_err());
            written(directory.path(), "usr/share/containers/oci/hooks.d/a.json", &value);
            assert!(Engine::Podman.calls(&host).is_err());
            written(directory.path(), "etc/cdi/a.json", &value);
            assert!(Engine::Cdi.calls(&host).is_err());
            let _ = Line::parse(&value);
        }
    });
}

#[test]
fn settings_have_nested_toml() {
    on_a_small_stack(|| {
        let dotted = vec!["a"; LEVELS].join(".");
        let inline = format!("a = {}{}", "{ a = ".repeat(LEVELS), "}".repeat(LEVELS));
        for text in [
            format!("keks = {}", nested("[", "]")),
            inline,
            format!("{dotted} = 1"),
            format!("[{dotted}]"),
            format!("[[{dotted}]]"),
        ] {
            assert!(text.parse::<Settings>().is_err());
            let directory = tempfile::tempdir().unwrap();
            let gateway = written(directory.path(), "gateway.toml", &text);
            assert!(GatewaySettings::load(&gateway).is_err());
            written(directory.path(), "etc/crio/crio.conf", &text);
            written(directory.path(), "etc/containers/containers.conf", &text);
            let host = Host::below(directory.path().to_owned());
            assert!(Engine::Podman.calls(&host).is_err());
            assert!(Engine::Crio.calls(&host).is_err());
        }
    });
}

#[test]
fn texts_have_many_parts() {
    on_a_small_stack(|| {
        let segments = vec!["*"; LEVELS].join("/");
        assert!(Pattern::try_from(segments.clone()).unwrap().matches(&segments.replace('*', "a")));
        assert!(format!("op://{segments}").parse::<Reference>().is_err());
        assert!(format!("pkcs11:{}", "token=a;".repeat(LEVELS)).parse::<KekUri>().is_err());
        assert!(Filter::parse(&format!("name eq {}", nested("(", ")"))).is_err());
    });
}

#[test]
fn an_envrc_has_nested_substitutions() {
    on_a_small_stack(|| {
        let directory = tempfile::tempdir().unwrap();
        for (open, close) in [("$(", ")"), ("${a-", "}"), ("\"$(", ")\""), ("(", ")"), ("{ ", ";}"), ("$((", "))")] {
            let text = nested(open, close);
            let ignored = written(directory.path(), "ignored", &format!("export A={text}\nexport B=op://v/i/f"));
            assert_eq!(envrc::read(&ignored).unwrap().variables.len(), 1);
            let refused = written(directory.path(), "refused", &format!("export A={open}op://v/i/f{text}"));
            assert!(envrc::read(&refused).is_err());
        }
    });
}

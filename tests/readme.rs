//! What the documentation says and a machine can check.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use oci_secrets::settings::Settings;
use regex::Regex;
use serde_json::Value;

const README: &str = include_str!("../README.md");
const SECURITY: &str = include_str!("../.github/SECURITY.md");
const CHANGELOG: &str = include_str!("../CHANGELOG.md");
const CLASSES: &str = include_str!("../hook/error/class.rs");
const SETTINGS: &str = include_str!("../config/settings.toml");
const HOOK: &str = include_str!("../config/hooks.d/90-oci-secrets.json");
const GRANTS: &str = include_str!("../packaging/docs/grants.md");
const QUICKSTART: &str = include_str!("../packaging/quickstart");

/// By this line a reader has seen what it does.
const RESULT_LINE_MAX: usize = 20;

#[test]
fn a_result_stands_before_line_20() {
    let top: Vec<&str> = README.lines().take(RESULT_LINE_MAX - 1).collect();
    let command = top.iter().position(|line| line.trim_start().starts_with("$ ")).unwrap();
    assert!(top.iter().skip(command).any(|line| line.contains("\"run.secrets/")), "no output after the command");
}

#[test]
fn the_steps_shown_are_steps_of_the_quickstart() {
    let steps = found(r"(?m)^    [1-9]  (.*)$", README);
    assert!(steps.len() >= 3);
    for step in steps {
        assert!(QUICKSTART.contains(&format!("step \"{step}\"")), "{step}");
    }
}

#[test]
fn the_exit_codes_are_those_of_the_code() {
    let codes = found(r"(?m)^    [A-Z][A-Za-z]+ = (\d+),$", CLASSES);
    assert!(codes.len() >= 8, "only {codes:?} were found in the code");
    assert_eq!(found(r"(?m)^\| (\d+) \|", README), codes);
}

#[test]
fn the_settings_shown_are_settings() {
    let blocks = found(r"(?s)```toml\n(.*?)```", README);
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        block.parse::<Settings>().unwrap();
    }
}

#[test]
fn the_grants_of_the_cookbook_are_settings() {
    let blocks = found(r"(?s)```toml\n(.*?)```", GRANTS);
    assert!(blocks.len() >= 4);
    for block in blocks {
        let settings: Settings = block.parse().unwrap();
        assert!(settings.grants.iter().next().is_some(), "{block}");
    }
}

#[test]
fn every_key_of_the_settings_that_is_named_exists() {
    let mut named = BTreeSet::new();
    for text in [README, SECURITY, CHANGELOG] {
        named.extend(found(r#"`([a-z-]+) = "[a-z]+"`"#, text));
        named.extend(found(r"`(\[[a-z-]+\])`", text));
    }
    assert!(named.len() >= 5, "only {named:?}");
    for key in named {
        let shown = |line: &str| {
            line.trim_start_matches('#') == key || line.trim_start_matches('#').starts_with(&format!("{key} = "))
        };
        assert!(SETTINGS.lines().any(shown), "config/settings.toml lacks {key}");
    }
}

#[test]
fn the_hook_of_a_bundle_is_the_hook_of_hooks_d() {
    let block = found(r"(?s)```json\n(.*?)```", README).pop().unwrap();
    let spec: Value = serde_json::from_str(&format!("{{{block}}}")).unwrap();
    let hook: Value = serde_json::from_str(HOOK).unwrap();
    assert_eq!(spec["hooks"]["createRuntime"], serde_json::json!([hook["hook"]]));
}

#[test]
fn every_file_that_is_named_exists() {
    let file = r"[ (`](?:\.\./)?((?:hook|config|tests|packaging|\.github)/[A-Za-z0-9_./-]*[A-Za-z0-9]|LICENSE)";
    let files: BTreeSet<String> = [README, SECURITY, CHANGELOG].iter().flat_map(|text| found(file, text)).collect();
    assert!(files.len() >= 10, "only {files:?}");
    for file in files {
        assert!(root().join(&file).exists(), "{file}");
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let sources: String =
        ["hook", "tests"].iter().flat_map(|directory| sources_below(&root().join(directory))).collect();
    let named = found(r"`([a-z0-9]+(?:_[a-z0-9]+){3,})`", SECURITY);
    assert!(named.len() >= 15, "only {named:?}");
    for test in named {
        assert!(sources.contains(&format!("fn {test}(")), "{test}");
    }
}

/// What the first group of a pattern matches, in the order of the text.
fn found(pattern: &str, text: &str) -> Vec<String> {
    Regex::new(pattern).unwrap().captures_iter(text).map(|captures| captures[1].to_owned()).collect()
}

/// The text of every Rust file below a directory.
fn sources_below(directory: &Path) -> Vec<String> {
    let entries: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (directories, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|path| path.is_dir());
    let is_rust = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let here = files.iter().filter(is_rust).map(|path| fs::read_to_string(path).unwrap());
    here.chain(directories.iter().flat_map(|path| sources_below(path))).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

//! The statements of the documents that a machine can check.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use oci_secrets::gateway::settings as gateway;
use oci_secrets::settings::{Settings, parse};
use regex::Regex;
use serde_json::Value;

const README: &str = include_str!("../README.md");
const SECURITY: &str = include_str!("../.github/SECURITY.md");
const CLASSES: &str = include_str!("../hook/fault.rs");
const SETTINGS: &str = include_str!("../config/settings.reference.toml");
const GATEWAY: &str = include_str!("../config/gateway.toml");
const HOOK: &str = include_str!("../config/hooks.d/90-oci-secrets.json");
const CI: &str = include_str!("../packaging/docs/ci.md");
const DOCKER: &str = include_str!("../config/docker/daemon.json");
const QUICKSTART: &str = include_str!("../packaging/quickstart");

/// The variable parts of a message: references, addresses, paths, ids, numbers, quoted and capitalized names.
static VARIABLE: LazyLock<Regex> = LazyLock::new(|| {
    let addresses = r#"op://[^\s"]*[^\s":]|https?://[^\s:]+(?::\d+)?|(?:\$DIR)?/[^\s:]+"#;
    let names = r#"\b[0-9a-f]{12}\b|\d+|"[^"]*"|\b[A-Z]\w*(?:, [A-Z]\w*)*"#;
    Regex::new(&format!("{addresses}|{names}")).unwrap()
});

const README_LINES_MAX: usize = 180;

/// Before this line, a reader sees what the product does.
const RESULT_LINE: usize = 20;

/// A document: its path from the root of the repository, and its text.
struct Document {
    path: String,
    text: String,
}

#[test]
fn the_readme_is_short_and_shows_a_result_at_once() {
    assert!(README.lines().count() <= README_LINES_MAX, "{} lines", README.lines().count());
    let top: Vec<&str> = README.lines().take(RESULT_LINE - 1).collect();
    let command = top.iter().position(|line| line.trim_start().starts_with("$ ")).unwrap();
    assert!(top.iter().skip(command).any(|line| line.contains("\"run.secrets/")), "no output after the command");
}

#[test]
fn the_readme_links_every_page() {
    let links: BTreeSet<String> = found(r"\]\(([^)#]+)\)", README).into_iter().collect();
    let pages = pages();
    assert!(pages.len() >= 10, "only {} pages were found", pages.len());
    for page in pages {
        assert!(links.contains(&page.path), "README.md does not link {}", page.path);
    }
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut links = 0;
    for document in documents() {
        for link in found(r"\]\(([^)]+)\)", &document.text) {
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let path = match file {
                "" => root().join(&document.path),
                file => root().join(&document.path).parent().unwrap().join(file),
            };
            assert!(path.exists(), "{}: {link} leads to no file", document.path);
            let leads = heading.is_empty() || anchors(&fs::read_to_string(&path).unwrap()).contains(heading);
            assert!(leads, "{}: {link} leads to no heading", document.path);
        }
    }
    assert!(links >= 40, "only {links} links were found");
}

#[test]
fn the_steps_shown_are_steps_of_the_quickstart() {
    let steps = found(r"(?m)^    [1-9]  (.*)$", README);
    assert!(steps.len() >= 3);
    for step in steps {
        assert!(QUICKSTART.contains(&format!("step \"{step}\"")), "{step}");
    }
    let places = found(r"(?m)^       ([a-z ]+)(?: \d|:).* nothing$", README);
    assert!(places.len() >= 2);
    for place in places {
        assert!(QUICKSTART.contains(&format!("found_nowhere \"{place}")), "{place}");
    }
}

#[test]
fn the_messages_shown_are_messages_of_the_programs() {
    let line = r"(?m)^ *(?:oci-secrets(?:-hook)?: )?((?:error: |hint: |problem |warning |-> ).*)$";
    let transcripts = transcripts();
    let known: BTreeSet<String> = found(line, &transcripts).iter().map(|line| skeleton(line)).collect();
    let mut messages = 0;
    for document in documents() {
        for message in found(line, &document.text) {
            messages += 1;
            assert!(known.contains(&skeleton(&message)), "{}: {message}", document.path);
        }
    }
    assert!(messages >= 15, "only {messages} messages were found");
}

#[test]
fn the_messages_of_the_ci_page_are_messages_of_the_programs() {
    let (_, table) = CI.split_once("\n## When a job is refused\n").unwrap();
    let (transcripts, mut messages) = (skeleton(&transcripts()), 0);
    for cell in found(r"(?m)^\| (`.*?`) \|", table) {
        for message in found("`([^`]+)`", &cell) {
            messages += 1;
            let is_known = message.split('…').all(|part| transcripts.contains(&skeleton(part)));
            assert!(is_known, "{message}");
        }
    }
    assert!(messages >= 9, "only {messages} messages were found");
}

#[test]
fn the_exit_codes_are_those_of_the_code() {
    let codes = found(r"(?m)^    [A-Z][A-Za-z]+ = (\d+),$", CLASSES);
    assert!(codes.len() >= 8, "only {codes:?} were found in the code");
    assert_eq!(found(r"(?m)^\| (\d+) \|", &document("packaging/docs/troubleshooting.md").text), codes);
}

#[test]
fn the_settings_shown_are_settings() {
    let (before_issuers, _) = GATEWAY.split_once("[[issuer]]").unwrap();
    let mut blocks = 0;
    for document in documents() {
        for block in found(r"(?s)```toml\n(.*?)```", &document.text) {
            blocks += 1;
            let error = if block.contains("[[issuer]]") {
                parse::<gateway::Settings>(&format!("{before_issuers}{block}")).err().map(|error| error.to_string())
            } else {
                block.parse::<Settings>().err().map(|error| error.to_string())
            };
            assert_eq!(error, None, "{}: {block}", document.path);
        }
    }
    assert!(blocks >= 12, "only {blocks} blocks were found");
}

#[test]
fn the_first_settings_are_the_same_on_every_page() {
    let blocks = |text: &str| found(r"(?s)```toml\n(.*?)```", text);
    assert_eq!(blocks(README)[0], blocks(&document("packaging/docs/install.md").text)[0]);
}

#[test]
fn every_recipe_for_grants_has_a_grant() {
    let blocks = found(r"(?s)```toml\n(.*?)```", &document("packaging/docs/grants.md").text);
    assert!(blocks.len() >= 5);
    for block in blocks {
        let settings: Settings = block.parse().unwrap();
        assert!(settings.grants.iter().next().is_some(), "{block}");
    }
}

#[test]
fn every_key_of_the_settings_that_is_named_exists() {
    let mut named = BTreeSet::new();
    for document in documents() {
        named.extend(found(r#"`([a-z-]+) = "[a-z]+"`"#, &document.text));
        named.extend(found(r"`(\[[a-z-]+\])`", &document.text));
    }
    assert!(named.len() >= 5, "only {named:?}");
    for key in named {
        let shown = |line: &str| {
            let line = line.trim_start_matches('#');
            line == key || line.starts_with(&format!("{key} = "))
        };
        assert!([SETTINGS, GATEWAY].iter().any(|text| text.lines().any(shown)), "no settings file has {key}");
    }
}

#[test]
fn the_hook_of_a_bundle_is_the_hook_of_hooks_d() {
    let blocks = found(r"(?s)```json\n(.*?)```", &document("packaging/docs/engines.md").text);
    let block = blocks.iter().find(|block| block.contains("createRuntime")).unwrap();
    let spec: Value = serde_json::from_str(&format!("{{{block}}}")).unwrap();
    let hook: Value = serde_json::from_str(HOOK).unwrap();
    assert_eq!(spec["hooks"]["createRuntime"], serde_json::json!([hook["hook"]]));
}

#[test]
fn the_settings_of_docker_shown_are_those_that_are_installed() {
    let blocks = found(r"(?s)```json\n(.*?)```", &document("packaging/docs/engines.md").text);
    let docker: Value = serde_json::from_str(DOCKER).unwrap();
    assert!(blocks.iter().any(|block| serde_json::from_str::<Value>(block).is_ok_and(|shown| shown == docker)));
}

#[test]
fn every_file_that_is_named_exists() {
    let file = r"[ (`](?:\.\./)*((?:hook|config|tests|packaging|\.github)/[A-Za-z0-9_./-]*[A-Za-z0-9]|LICENSE)";
    let mut files = 0;
    for document in documents() {
        for file in found(file, &document.text) {
            files += 1;
            assert!(root().join(&file).exists(), "{}: {file}", document.path);
        }
    }
    assert!(files >= 30, "only {files} names were found");
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

/// The messages of the programs, with the commands that cause them.
fn transcripts() -> String {
    let entries = fs::read_dir(root().join("tests/cli")).unwrap().map(|entry| entry.unwrap().path());
    let texts = entries.filter(|path| path.extension().is_some_and(|extension| extension == "txt"));
    texts.map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// A message without its variable parts.
fn skeleton(message: &str) -> String {
    let text = VARIABLE.replace_all(message, "…");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The headings of a document, as GitHub names them in links.
fn anchors(text: &str) -> BTreeSet<String> {
    let slug = |heading: String| {
        let kept = heading.chars().filter(|character| character.is_alphanumeric() || " -_".contains(*character));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    found(r"(?m)^#+ (.*)$", text).into_iter().map(slug).collect()
}

fn documents() -> Vec<Document> {
    let named = ["README.md", ".github/SECURITY.md", "CHANGELOG.md"];
    named.into_iter().map(document).chain(pages()).collect()
}

fn pages() -> Vec<Document> {
    let entries = fs::read_dir(root().join("packaging/docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| document(&format!("packaging/docs/{name}"))).collect()
}

fn document(path: &str) -> Document {
    Document { path: path.to_owned(), text: fs::read_to_string(root().join(path)).unwrap() }
}

/// The text that the first group of a pattern matches, each time.
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

/// GitHub's subject contains ids in new and renamed repositories, so that a released name is worth nothing to a stranger.
#[test]
fn the_trust_policy_of_the_page_trusts_one_environment_of_one_repository() {
    let document = CI.split_once("--assume-role-policy-document '").unwrap().1.split_once("}'").unwrap().0;
    let policy: Value = serde_json::from_str(&format!("{document}}}")).unwrap();
    let claims = |subject: &str, audience: &str| {
        let claim = |name: &str| format!("token.actions.githubusercontent.com:{name}");
        BTreeMap::from([(claim("sub"), subject.to_owned()), (claim("aud"), audience.to_owned())])
    };
    let new = "repo:acme@65123/app@740231:environment:production";
    let old = "repo:acme/app:environment:production";
    for (subject, audience, is_trusted) in [
        (new, "sts.amazonaws.com", true),
        (new, "https://secrets.acme.example", false),
        (old, "sts.amazonaws.com", false),
        ("repo:acme@65123/app@740231:environment:test", "sts.amazonaws.com", false),
        ("repo:acme@65123/app@740231:ref:refs/heads/main", "sts.amazonaws.com", false),
        ("repo:acme@99999/app@740231:environment:production", "sts.amazonaws.com", false),
        ("repo:acme@65123/app@99999:environment:production", "sts.amazonaws.com", false),
    ] {
        assert_eq!(trusts(&policy, &claims(subject, audience)), is_trusted, "{subject} for {audience}");
    }
    // The page also has the form of older repositories.
    assert!(CI.contains(&format!("`{old}`")) && CI.contains(&format!("`{new}`")));
    let of_old: Value = serde_json::from_str(&policy.to_string().replace(new, old)).unwrap();
    assert!(trusts(&of_old, &claims(old, "sts.amazonaws.com")));
}

/// Whether a trust policy allows a web identity with these claims. Of IAM's conditions it knows the one that compares exactly.
fn trusts(policy: &Value, claims: &BTreeMap<String, String>) -> bool {
    policy["Statement"].as_array().unwrap().iter().any(|statement| {
        assert_eq!(
            (&statement["Effect"], &statement["Action"]),
            (&"Allow".into(), &"sts:AssumeRoleWithWebIdentity".into())
        );
        let conditions = statement["Condition"].as_object().unwrap();
        assert!(conditions.keys().eq(["StringEquals"]), "{conditions:?}");
        let required = conditions["StringEquals"].as_object().unwrap();
        assert!(
            required.keys().any(|name| name.ends_with(":sub")) && required.keys().any(|name| name.ends_with(":aud"))
        );
        required.iter().all(|(name, value)| claims.get(name).is_some_and(|claim| value == claim))
    })
}

//! Files of an operator or a developer: settings, `.envrc`, templates and audit trails.

use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use bolero::ValueGenerator;
use bolero::generator::bolero_generator::driver::Driver;
use jiff::Timestamp;
use oci_secrets::audit::{Chain, Line, Link, Verification};
use oci_secrets::container::{Annotations, Requests};
use oci_secrets::envrc::{self, Format, Split};
use oci_secrets::gateway;
use oci_secrets::reference::Reference;
use oci_secrets::report;
use oci_secrets::secret::Secret;
use oci_secrets::settings::{self, Settings};
use oci_secrets::template::Template;
use regex::Regex;
use serde_json::{Value, json};

use crate::CANARY;
use crate::engine::check;
use crate::generate::{list, near, near_text, pick, up_to};

const SETTINGS: &str = include_str!("../../config/settings.reference.toml");
const GATEWAY: &str = include_str!("../../config/gateway.toml");

/// Values that are not what a key expects, most of them with a canary.
const VALUES: [&str; 14] = [
    "\"canary\"",
    "'canary'",
    "[\"canary\"]",
    "[\"a\", [\"canary\"]]",
    "{ file = \"canary\" }",
    "{ command = [\"canary\"] }",
    "\"https://canary:canary@h.example/?q=canary\"",
    "\"op://canary/%/x\"",
    "\"canary, expected canary\"",
    "canary",
    "\"canary",
    "\"1h canary\"",
    "7",
    "\"\"\"\ncanary\"\"\"",
];

#[test]
fn errors_in_settings_do_not_quote_values() {
    check!(3000).with_generator((Changed(SETTINGS), Changed(GATEWAY))).for_each(|(hook, gateway)| {
        if let Err(error) = hook.parse::<Settings>() {
            assert!(!error.to_string().contains(CANARY), "{error}");
        }
        if let Err(error) = settings::parse::<gateway::settings::Settings>(gateway) {
            assert!(!error.to_string().contains(CANARY), "{error}");
        }
    });
}

#[test]
fn every_reference_in_an_envrc_is_a_variable_or_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(".envrc");
    let seeds = [
        "export A=\"op://v/i/f\"\nexport B=canary\nC='op://v/i/g' # no reference\n# op://v/i/f\n",
        "export DB_URL='op://v/db prod/url'   # comment\nexport X=1 \\\nexport Y=op://v/i/f\n",
        "source_env x\r\nexport Z=op://v/i/f\r\n",
    ];
    let words =
        ["op://", "OP://", "#", "# no reference", "\n", "\r", "\\\n", "\"", "'", "\0", "export ", "=", "$(op://)", " "];
    check!(8000).with_generator(near(&seeds, &words)).for_each(|text| {
        fs::write(&path, text).unwrap();
        let found = match envrc::read(&path) {
            Ok(found) => found,
            Err(error) => return assert!(!report::chain(&error).contains(CANARY)),
        };
        let text = String::from_utf8_lossy(text);
        let is_meant = |line: &&str| {
            let blank = [' ', '\t'];
            let is_comment = line.trim_start_matches(blank).starts_with('#');
            let before = line.strip_suffix('\r').unwrap_or(line).trim_end_matches(blank).strip_suffix("# no reference");
            let is_marked = before.is_some_and(|before| before.is_empty() || before.ends_with(blank));
            line.to_ascii_lowercase().contains("op://") && !is_comment && !is_marked
        };
        assert_eq!(found.variables.len(), text.split('\n').filter(is_meant).count());
        let Ok(variables) = envrc::unite(found.variables) else { return };
        let printed = Format::Oci.text(&variables, Split::Lines).unwrap();
        let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
        let annotations = serde_json::from_value(printed["annotations"].clone()).unwrap();
        let requests = Requests::from_annotations(&Annotations::new(annotations)).unwrap();
        let requested: Vec<_> = requests
            .map(|all| all.files)
            .unwrap_or_default()
            .into_iter()
            .map(|one| (one.file, one.reference))
            .collect();
        let mut declared: Vec<_> = variables.into_iter().map(|one| (one.file, one.reference)).collect();
        declared.sort();
        assert_eq!(requested, declared);
    });
}

#[test]
fn a_template_renders_to_its_text_and_its_secrets() {
    check!(8000).with_generator(Pieces).for_each(|pieces| {
        let secret = |reference: &str| format!("{CANARY} {{{{ {reference} }}}}");
        let (mut text, mut expected) = (String::new(), String::new());
        for (kind, piece) in pieces {
            match kind {
                0 => (text.push_str(piece), expected.push_str(piece)),
                1 => (text.push_str(&format!("{{{{{piece}}}}}")), expected.push_str(&secret(piece.trim()))),
                _ => (text.push_str(&format!("{{{{ \"{piece}\" }}}}")), expected.push_str(piece)),
            };
        }
        let Ok(template) = text.parse::<Template>() else {
            return assert!(pieces.iter().all(|(kind, _)| *kind != 1), "{text}");
        };
        let secrets: Vec<(Reference, Secret)> = template
            .references()
            .into_iter()
            .map(|one| (one.clone(), Secret::new(secret(one.as_str()).into_bytes())))
            .collect();
        let find =
            |reference: &Reference| secrets.iter().find(|(known, _)| known == reference).map(|(_, secret)| secret);
        let rendered = template.render(find, usize::MAX).unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(rendered.expose()), expected);
        assert!(template.render(|_| None, usize::MAX).unwrap().is_none());
    });
}

#[test]
fn a_template_is_read_whole_or_refused() {
    let seeds = ["a {{ op://v/i/f }} b op://v/i/g?attribute=otp\n{{ \"{{\" }}", "{{op://v/i i/f}}:op://v/i/f,"];
    let words = ["{{", "}}", "\"", " ", "op://", "OP://", "\n", "{", "é", "{{ \""];
    check!(16_000).with_generator(near_text(&seeds, &words)).for_each(|text| {
        let rendered = text.parse::<Template>().ok().map(|template| {
            let named = |reference: &Reference| Secret::new(format!("<{reference}>").into_bytes());
            let secrets: Vec<_> = template.references().into_iter().map(|one| (one.clone(), named(one))).collect();
            let find = |reference: &Reference| secrets.iter().find(|one| one.0 == *reference).map(|one| &one.1);
            let rendered = template.render(find, usize::MAX).unwrap().unwrap();
            String::from_utf8(rendered.expose().to_vec()).unwrap()
        });
        assert_eq!(rendered, expected(text));
    });
}

/// What a template renders to if the secret of each reference is its name, by a regular expression.
fn expected(text: &str) -> Option<String> {
    static PIECE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"(?s)\{\{ *(?:"([^"]*)"|(op://.*?)) *\}\}|((?i:op)://[A-Za-z0-9._/?=-]*)"#).unwrap()
    });
    let (mut rendered, mut end, mut from, mut has_reference) = (String::new(), 0, 0, false);
    while let Some(piece) = PIECE.captures_at(text, from) {
        let whole = piece.get(0).unwrap();
        let in_word = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if piece.get(3).is_some() && text[..whole.start()].ends_with(in_word) && whole.start() > end {
            from = whole.start() + 1;
            continue;
        }
        rendered.push_str(&text[end..whole.start()]);
        if text[end..].find("{{").is_some_and(|open| end + open < whole.start()) {
            return None;
        }
        match piece.get(1) {
            Some(quoted) => rendered.push_str(quoted.as_str()),
            None => {
                let reference: Reference = piece.get(2).or(piece.get(3)).unwrap().as_str().parse().ok()?;
                rendered.push_str(&format!("<{reference}>"));
                has_reference = true;
            }
        }
        (end, from) = (whole.end(), whole.end());
    }
    rendered.push_str(&text[end..]);
    (has_reference && !text[end..].contains("{{")).then_some(rendered)
}

#[test]
fn a_changed_audit_trail_has_problems() {
    let (content, head) = chain(6);
    let words = ["\n", "{}", "\"sequence\":1", "{\"chain\":{\"sequence\":2}}\n", "begins", "resumes", "0"];
    check!(8000).with_generator(near(&[&content], &words)).for_each(|changed| {
        let mut verification = Verification::with_head(head);
        let verdict = verification.read(changed, true);
        if verdict.problems.is_empty() {
            // A line that was written twice is a note.
            let mut lines: Vec<&[u8]> = changed.split_inclusive(|byte| *byte == b'\n').collect();
            lines.dedup();
            assert_eq!(lines.concat(), content, "{}", String::from_utf8_lossy(changed));
        }
    });
}

#[test]
fn a_record_is_appended_to_any_file() {
    let (content, _) = chain(2);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let words =
        ["\n", "\0", "{\"chain\":{\"sequence\":18446744073709551615}}\n", "{\"chain\":{\"sequence\":0}}", "\u{fffd}"];
    check!(3000).with_generator(near(&[content], &words)).for_each(|before| {
        fs::write(&path, before).unwrap();
        let lines = Chain::open(&path).unwrap().append(&json!({ "x": 1 }), Duration::from_secs(60)).unwrap();
        let after = fs::read(&path).unwrap();
        let added = after.strip_prefix(before.as_slice()).unwrap();
        // A line of its own, after one that an interrupted write has left.
        let is_whole = before.is_empty() || before.ends_with(b"\n");
        let expected: String = lines.iter().map(|line| format!("{line}\n")).collect();
        assert_eq!(String::from_utf8_lossy(added), if is_whole { expected } else { format!("\n{expected}") });
        assert!(lines.iter().all(|line| Link::of(line.as_bytes()).is_some()));
    });
}

#[test]
fn a_line_of_an_audit_trail_is_one_of_the_known_kinds() {
    let seeds = [
        r#"{"schema":1,"time":"2026-01-01T00:00:00Z","decision":"delivered","start":"a","container":"c","secrets":[{"file":"f","reference":"op://v/i/f","item_version":3}]}"#,
        r#"{"schema":1,"time":"2026-01-01T00:00:00Z","event":"open","secrets":[{"reference":"op://v/i/f","version":1}],"operators":["a"]}"#,
        r#"{"schema":1,"time":"2026-01-01T00:00:00Z","event":"drill","secrets":2}"#,
    ];
    let words = ["null", "-1", "[]", "{}", "\"decision\":1,", "\"9999-99-99\"", "1e400"];
    check!(12_000).with_generator(near_text(&seeds, &words)).for_each(|text| {
        let value = match serde_json::from_str::<Value>(text) {
            Ok(value) => value,
            Err(_) if text.is_empty() => Value::Null,
            // Also of a number that this type does not hold, in a member that nothing reads.
            Err(_) => return drop(Line::parse(text)),
        };
        let text_of = |member: &str| value[member].as_str().unwrap_or_default().to_owned();
        let is_time = text_of("time").parse::<Timestamp>().is_ok();
        match Line::parse(text) {
            Line::Start(entry) => {
                assert_eq!((&*entry.decision, &*entry.container), (&*text_of("decision"), &*text_of("container")));
                let references = entry.secrets.iter().map(|one| json!(one.reference));
                let written = value["secrets"].as_array().cloned().unwrap_or_default();
                assert!(references.eq(written.iter().map(|secret| secret["reference"].clone())));
            }
            Line::Act(act) => {
                assert!(is_time && value["schema"].is_u64() && value["decision"].is_null());
                assert_eq!((act.event.clone(), act.count()), (text_of("event"), value["secrets"].as_u64()));
                assert_eq!(act.secrets().len(), value["secrets"].as_array().map_or(0, Vec::len));
            }
            Line::Other => assert!(value["schema"].is_u64() && value["decision"].is_null()),
            Line::Empty => assert!(text.is_empty()),
            // No decision of a start is hidden by what a newer version adds.
            Line::Unreadable => assert!(text != seeds[0] && !text.is_empty()),
        }
    });
}

/// A chain of so many records, and the hash of its last line.
fn chain(records: u32) -> (Vec<u8>, Option<oci_secrets::audit::Hash>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    for number in 0..records {
        let record = json!({ "number": number });
        Chain::open(&path).unwrap().append(&record, Duration::from_secs(60)).unwrap();
    }
    let content = fs::read(&path).unwrap();
    let last = content.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().map(oci_secrets::audit::Hash::of);
    (content, last)
}

/// These settings, with some keys that have other values. Keys that are commented out are set, too.
struct Changed(&'static str);

impl ValueGenerator for Changed {
    type Output = String;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<String> {
        let mut lines: Vec<String> = self.0.lines().map(str::to_owned).collect();
        let keys: Vec<usize> = (0..lines.len()).filter(|at| key(&lines[*at]).is_some()).collect();
        for _ in 0..=up_to(driver, 2)? {
            let at = *pick(driver, &keys)?;
            let value = pick(driver, &VALUES)?;
            lines[at] = format!("{} = {value}", key(&lines[at])?);
        }
        Some(lines.join("\n"))
    }
}

/// The key that a line sets, or would set.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.strip_prefix('#').unwrap_or(line).split_once(" = ")?;
    let is_key = |byte: u8| byte.is_ascii_lowercase() || byte == b'-' || byte == b'.';
    (!key.is_empty() && key.bytes().all(is_key)).then_some(key)
}

/// Pieces of a template: 0 for text, 1 for a reference, 2 for quoted text.
struct Pieces;

impl ValueGenerator for Pieces {
    type Output = Vec<(usize, String)>;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Vec<(usize, String)>> {
        let piece = |driver: &mut D| {
            let kind = up_to(driver, 2)?;
            let texts: [&[&str]; 3] = [
                &["a", "{", " }", "}}", "\n", "é", "op:/", "\"", ""],
                &["op://v/i/f", " op://v/i/g ", "  op://v/i i/s/f"],
                &["{{", "}}", "op://v/i/f", "'", " "],
            ];
            Some((kind, (*pick(driver, texts[kind])?).to_owned()))
        };
        // Two pieces of text could be one brace each.
        let mut pieces = list(driver, 6, piece)?;
        pieces.dedup_by(|one, other| one.0 == 0 && other.0 == 0);
        let ends_with_brace = |at: usize| pieces[at].0 == 0 && pieces[at].1.ends_with('{');
        let is_clear = (1..pieces.len()).all(|at| !ends_with_brace(at - 1));
        is_clear.then_some(pieces)
    }
}

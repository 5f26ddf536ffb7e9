//! What the 1Password CLI prints.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use oci_secrets::child::Ended;
use oci_secrets::reference::Reference;
use oci_secrets::report;
use oci_secrets::source::op::refusal::OpRefusal;
use oci_secrets::source::op::template::InjectTemplate;

use crate::CANARY;
use crate::engine::check;
use crate::generate::{near, near_text};

#[test]
fn values_are_those_between_the_boundaries() {
    check!(6000).with_type().for_each(|(first, second, at): &(Vec<u8>, Vec<u8>, usize)| {
        let references: Vec<Reference> = ["op://v/i/f", "op://v/i/g"].map(|text| text.parse().unwrap()).to_vec();
        let template = InjectTemplate::of(references.iter()).unwrap();
        let boundary = template.text().lines().next().unwrap().as_bytes().to_vec();
        let output =
            [&boundary, b"\n".as_slice(), first, b"\n", &boundary, b"\n", second, b"\n", &boundary, b"\n"].concat();
        let values = template.values(&output).unwrap();
        assert_eq!([&**values[0], &**values[1]], [first.as_slice(), second]);
        // A part of it is no answer, and neither is the template itself or another order.
        let end = at % (output.len() - 1);
        assert!(template.values(&output[..end]).is_none());
        assert!(template.values(template.text().as_bytes()).is_none());
        assert!(template.values(&[&output[..], b"more"].concat()).is_none());
    });
}

#[test]
fn output_that_was_changed_is_not_taken_for_other_values() {
    let references: Vec<Reference> = ["op://v/i/f", "op://v/i/g"].map(|text| text.parse().unwrap()).to_vec();
    let template = InjectTemplate::of(references.iter()).unwrap();
    let boundary = template.text().lines().next().unwrap();
    let output = format!("{boundary}\none\n{boundary}\ntwo\n{boundary}\n");
    let words = [boundary, "\n", "op://v/i/f", "{{ op://v/i/f }}", "\0"];
    check!(12_000).with_generator(near(&[&output], &words)).for_each(|changed| {
        let Some(values) = template.values(changed) else { return };
        let again =
            [boundary.as_bytes(), &values[0], boundary.as_bytes(), &values[1], boundary.as_bytes()].join(&b'\n');
        assert_eq!(changed.trim_ascii_end(), again);
    });
}

#[test]
fn what_op_says_is_shown_without_tokens_and_values() {
    let seeds = [
        "[ERROR] 2026/11/01 10:00:00 could not read secret: ops_canary isn't an item".to_owned(),
        "[ERROR] 2026/11/01 10:00:00 (401) Unauthorized: eyJcanary sealed:canary".to_owned(),
        format!("[ERROR] too many requests, retry in 5 minutes {CANARY}{}", "x".repeat(60)),
        "unknown: ops_canary".to_owned(),
    ];
    let words = [" ", "\n[ERROR] ", "more than one", "dial tcp", "session expired", "\r", "retry in 1 ", "\t"];
    check!(12_000).with_generator(near_text(&seeds, &words)).for_each(|complaint| {
        let shown = |word: &str| {
            let is_marked = ["ops_", "eyJ", "sealed:"].iter().any(|mark| word.contains(mark)) || word.len() > 60;
            word.contains(CANARY) && !is_marked
        };
        let is_plain = complaint.split_whitespace().any(shown);
        let output = format!("{CANARY} output").into_bytes();
        let ended = Ended {
            status: ExitStatus::from_raw(256),
            output: output.into(),
            complaint: complaint.clone().into_bytes().into(),
        };
        if let OpRefusal::OfAll(error) = OpRefusal::read(&ended) {
            assert!(is_plain || !report::chain(&error).contains(CANARY), "{}", report::chain(&error));
        }
    });
}

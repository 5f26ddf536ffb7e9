//! A pipeline from the identity of its job to a container with its secrets, by the workflow files of `config/ci` as they are: issuer,
//! gateway, 1Password Connect, the token services and KMS of Google and AWS, and the real podman.
//!
//! Each test is on a machine of its own, where the names of the workflow files and of Google lead to loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod denials;
mod pipeline;
mod runner;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pipeline::{GATEWAY, Pipeline, SECRET};
use runner::{Runner, workflow};
use serde_json::{Value, json};
use support::python;

#[test]
fn the_workflow_files_are_what_the_platforms_publish() {
    let directory = tempfile::tempdir().unwrap();
    for platform in ["github", "gitlab"] {
        let Some(mut client) = python::client("ci_workflow.py") else { return };
        let output = client.args(["schema", platform]).arg(workflow(platform)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let wrong = directory.path().join("wrong.yml");
        let text = fs::read_to_string(workflow(platform)).unwrap();
        fs::write(&wrong, text.replace("runs-on:", "runs-no:").replace("aud:", "audience:")).unwrap();
        let mut client = python::client("ci_workflow.py").unwrap();
        assert!(!client.args(["schema", platform]).arg(wrong).output().unwrap().status.success(), "{platform}");
    }
}

#[test]
fn a_job_of_github_actions_starts_a_container_with_its_secrets() {
    let Some(pipeline) = Pipeline::start() else { return };
    let Some(runner) = Runner::new(&pipeline, "github") else { return };
    runner.delivers(&pipeline, &pipeline.github_job());
}

#[test]
fn jobs_live_through_what_their_issuer_does_meanwhile() {
    let Some(pipeline) = Pipeline::start() else { return };
    let Some(runner) = Runner::new(&pipeline, "github") else { return };
    let has_its_secret = |what: &str| {
        let run = runner.run(&pipeline.github_job());
        assert!(run.text.contains(SECRET), "{what}: {}", run.text);
    };
    let fault = |fault: Value| pipeline.stand_in.control_issuer("github", "fault", &fault);
    let old = pipeline.stand_in.mint("github", &json!({ "claims": { "aud": GATEWAY } }));
    has_its_secret("before");

    // Between its token and its container: no job of GitHub's can get another token without its issuer.
    let rotate = format!("{}/stand-in/issuers/github/rotate", pipeline.stand_in.issuer("").trim_end_matches('/'));
    runner.meanwhile(&format!("curl --fail --silent --show-error --data '{{}}' {rotate}"));
    has_its_secret("a new key in mid-run");
    fault(json!({ "discovery": "slow-1000", "jwks": "slow-1000" }));
    has_its_secret("signed by the new key, and the issuer is slow");

    runner.meanwhile("true");
    fault(json!({ "discovery": "status-503", "jwks": "reset" }));
    has_its_secret("signed by a known key, and the issuer is down");
    fault(json!({ "discovery": null, "jwks": null }));
    pipeline.stand_in.control_issuer("github", "rotate", &json!({ "keep": false }));
    has_its_secret("the issuer is back, and shows its newest key alone");
    assert_eq!(pipeline.answers(&old), 401);
}

#[test]
fn a_job_unseals_by_its_role_of_aws() {
    let Some(pipeline) = Pipeline::start() else { return };
    let Some(moto) = pipeline.start_aws() else { return };
    let Some(runner) = Runner::of_aws(&pipeline) else { return };
    runner.delivers(&pipeline, &pipeline.github_job());
    let signed = pipeline.signed_for_aws();
    assert!(!signed.is_empty() && signed.lines().all(|line| line.starts_with("kms ASIA")), "{signed}");
    drop(moto);
}

#[test]
fn a_job_of_gitlab_ci_starts_a_container_with_its_secrets() {
    let Some(pipeline) = Pipeline::start() else { return };
    let Some(runner) = Runner::new(&pipeline, "gitlab") else { return };
    runner.delivers(&pipeline, &pipeline.gitlab_job(&runner.job));
}

#[test]
fn a_job_without_oidc_starts_a_container_through_op_until_its_token_is_too_old() {
    let Some(pipeline) = Pipeline::start() else { return };
    let Some(runner) = Runner::without_oidc(&pipeline) else { return };
    let made = |hours: i64| (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours)).to_string();
    let job = |hours| {
        let variables = [("OP_TOKEN", "ops_canary-service-account".to_owned()), ("OP_TOKEN_MADE", made(hours))];
        variables.map(|(name, value)| (name.to_owned(), value)).into()
    };
    let run = runner.run(&job(23));
    assert!(run.text.contains(SECRET), "{}", run.text);
    assert!(run.text.contains(" /run/secrets tmpfs ro,nosuid,nodev,noexec"), "{}", run.text);
    assert!(!run.text.contains("canary-service-account"), "the container has the token");
    let run = runner.run(&job(25));
    assert!(!run.status.success() && !run.text.contains(SECRET), "{}", run.text);
    assert!(run.text.contains("it is 25h old, expected at most 24h"), "{}", run.text);
    assert!(!Path::new("/run/oci-secrets/op-token").exists(), "the token is left behind");
}

#[test]
fn a_job_without_an_identity_is_told_what_its_workflow_lacks() {
    let Some(pipeline) = Pipeline::start() else { return };
    for (platform, hint) in [
        ("github", "hint: add `permissions: { id-token: write }` to the job in the workflow file"),
        ("gitlab", "hint: add `id_tokens: { GATEWAY_TOKEN: { aud: "),
    ] {
        let Some(runner) = Runner::new(&pipeline, platform) else { return };
        let run = runner.run(&BTreeMap::new());
        assert!(!run.status.success() && run.text.contains(hint), "{}", run.text);
        assert!(!run.text.contains(SECRET), "the container was started");
    }
}

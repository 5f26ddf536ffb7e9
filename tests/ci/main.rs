//! CI pipelines from the identity of a job to a container with secrets, with the unmodified workflow files of `config/ci`: issuer,
//! gateway, 1Password Connect, the token services and KMS of Google and AWS, and podman.
//!
//! Each test runs in its own namespaces, where the names of the workflow files and of Google resolve to loopback.

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
fn the_workflow_files_match_the_published_schemas() {
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
fn a_github_job_starts_a_container_with_secrets() {
    let Some(pipeline) = Pipeline::start() else { return };
    let Some(runner) = Runner::new(&pipeline, "github") else { return };
    runner.delivers(&pipeline, &pipeline.github_job());
}

#[test]
fn jobs_survive_key_rotation_and_faults_of_the_issuer() {
    let Some(pipeline) = Pipeline::start() else { return };
    let Some(runner) = Runner::new(&pipeline, "github") else { return };
    let assert_delivers = |what: &str| {
        let run = runner.run(&pipeline.github_job());
        assert!(run.text.contains(SECRET), "{what}: {}", run.text);
    };
    let fault = |fault: Value| pipeline.stand_in.control_issuer("github", "fault", &fault);
    let old = pipeline.stand_in.mint("github", &json!({ "claims": { "aud": GATEWAY } }));
    assert_delivers("before");

    // Between requesting the token and starting the container: a job cannot request a token while the issuer is down.
    let rotate = format!("{}/stand-in/issuers/github/rotate", pipeline.stand_in.issuer("").trim_end_matches('/'));
    runner.meanwhile(&format!("curl --fail --silent --show-error --data '{{}}' {rotate}"));
    assert_delivers("a new key during the run");
    fault(json!({ "discovery": "slow-1000", "jwks": "slow-1000" }));
    assert_delivers("signed by the new key, and the issuer is slow");

    runner.meanwhile("true");
    fault(json!({ "discovery": "status-503", "jwks": "reset" }));
    assert_delivers("signed by a known key, and the issuer is down");
    fault(json!({ "discovery": null, "jwks": null }));
    pipeline.stand_in.control_issuer("github", "rotate", &json!({ "keep": false }));
    assert_delivers("the issuer is back, and publishes only its newest key");
    // Until the gateway may ask the issuer again, it does not know whether the key of this token is a new one.
    let answered = (0..60).map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(500));
        pipeline.answers(&old)
    });
    assert_eq!({ answered }.find(|status| *status != 503), Some(401));
}

#[test]
fn a_job_unseals_with_an_aws_role() {
    let Some(pipeline) = Pipeline::start() else { return };
    let Some(moto) = pipeline.start_aws() else { return };
    let Some(runner) = Runner::of_aws(&pipeline) else { return };
    runner.delivers(&pipeline, &pipeline.github_job());
    let signed = pipeline.signed_for_aws();
    assert!(!signed.is_empty() && signed.lines().all(|line| line.starts_with("kms ASIA")), "{signed}");
    drop(moto);
}

#[test]
fn a_gitlab_job_starts_a_container_with_secrets() {
    let Some(pipeline) = Pipeline::start() else { return };
    let Some(runner) = Runner::new(&pipeline, "gitlab") else { return };
    runner.delivers(&pipeline, &pipeline.gitlab_job(&runner.job));
}

#[test]
fn a_job_without_oidc_uses_op_until_its_token_is_too_old() {
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
    assert!(!Path::new("/run/oci-secrets/op-token").exists(), "the token was not removed");
}

#[test]
fn a_missing_permission_of_a_job_is_reported_with_a_hint() {
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

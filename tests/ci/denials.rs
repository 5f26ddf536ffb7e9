//! Jobs that are not who they should be, and jobs that only say that they are.

use serde_json::{Value, json};

use crate::pipeline::{GATEWAY, Pipeline, binary};
use crate::support::host::run;
use crate::support::with_mode;

#[test]
fn a_job_that_no_rule_is_for_is_denied_and_told_what_to_change() {
    let Some(pipeline) = Pipeline::start() else { return };
    let fork = json!({ "repository": "mallory/app", "ref": "refs/pull/7/merge", "event_name": "pull_request" });
    for (claims, what) in [
        (fork, "pull request of a fork"),
        (json!({ "ref": "refs/pull/7/merge", "event_name": "pull_request" }), "pull request"),
        (json!({ "ref": "refs/heads/maintenance" }), "another branch"),
        (json!({ "repository": "acme/app2" }), "a repository whose name begins alike"),
        (json!({ "repository": "ACME/app" }), "a repository in another case"),
        (json!({ "repository": "acme/app/../app" }), "a repository that looks alike"),
    ] {
        let mut claims = claims;
        claims["aud"] = GATEWAY.into();
        let name = |claim: &str, usual: &str| claims[claim].as_str().unwrap_or(usual).to_owned();
        claims["sub"] =
            format!("repo:{}:ref:{}", name("repository", "acme/app"), name("ref", "refs/heads/main")).into();
        let token = pipeline.stand_in.mint("github", &json!({ "claims": claims }));
        pipeline.denies(&token, what, "the token may not read its list of vaults: 403 Forbidden");
    }
    let audit = pipeline.audit();
    assert!(audit.contains("mallory/app") && audit.contains("refs/heads/maintenance"), "{audit}");
}

#[test]
fn a_token_that_proves_nothing_is_denied() {
    let Some(pipeline) = Pipeline::start() else { return };
    let aud = json!({ "aud": GATEWAY });
    let refused = "refuses the token: 401 Unauthorized";
    for (body, what) in [
        (json!({ "claims": { "aud": "https://other.example" } }), "another audience"),
        (json!({ "claims": aud, "algorithm": "none" }), "unsigned"),
        (json!({ "claims": aud, "algorithm": "HS256" }), "signed by the public key"),
        (json!({ "claims": aud, "by": "gitlab" }), "signed by another issuer"),
        (json!({ "claims": aud, "by": "gitlab", "header": { "kid": "github-key-1" } }), "with the key's name alone"),
    ] {
        pipeline.denies(&pipeline.stand_in.mint("github", &body), what, refused);
    }
    pipeline.stand_in.tell_issuer("github", "rotate", &json!({ "keep": false }));
    pipeline.stand_in.tell_issuer("github", "jwks", &json!({ "keys": [] }));
    let token = pipeline.stand_in.mint("github", &json!({ "claims": aud }));
    pipeline.denies(&token, "signed by a key that the issuer does not show", refused);
}

#[test]
fn a_token_whose_time_is_over_or_that_is_too_long_goes_nowhere() {
    let Some(pipeline) = Pipeline::start() else { return };
    let over = json!({ "claims": { "aud": GATEWAY, "exp": 1_700_000_000 } });
    let over = pipeline.stand_in.mint("github", &over);
    pipeline.is_refused(&over, "refusing to send the token of GitLab CI in TOKEN: it expired at 2023-11-14T22:13:20Z");
    let long = json!({ "claims": { "aud": GATEWAY, "padding": "x".repeat(20_000) } });
    pipeline.denies(&pipeline.stand_in.mint("github", &long), "a huge token", "");
}

impl Pipeline {
    /// Shows a token to the gateway, which says no and records it.
    fn denies(&self, token: &str, what: &str, words: &str) {
        let lines = self.audit().lines().count();
        self.is_refused(token, words);
        assert!(self.audit().lines().count() > lines, "{what} is not in the audit");
        let last: Value = serde_json::from_str(self.audit().lines().last().unwrap()).unwrap();
        assert!(last.to_string().contains("refused") || last.to_string().contains("denied"), "{what}: {last}");
        assert!(!last.to_string().contains(token), "the audit has the token");
    }

    fn is_refused(&self, token: &str, words: &str) {
        let directory = tempfile::tempdir().unwrap();
        let settings = directory.path().join("settings.toml");
        let text = "[connect]\nurl = \"https://secrets.acme.example:8443\"\ntoken = { gitlab-id-token = \"TOKEN\" }\n";
        with_mode(&settings, text.as_bytes(), 0o644);
        let mut check = std::process::Command::new(binary("oci-secrets"));
        check.env_clear().env("TOKEN", token).arg("--settings").arg(&settings).arg("check");
        let output = run(&mut check, b"");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_ne!(output.status.code(), Some(0), "{text}");
        let connect = text.lines().find(|line| line.starts_with("problem  connect:"));
        assert!(connect.is_some_and(|line| line.contains(words)), "{text}");
    }
}

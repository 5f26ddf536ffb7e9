//! Jobs that no rule allows, and forged tokens: each is denied and recorded.

use std::process::Command;

use serde_json::{Value, json};

use crate::pipeline::{GATEWAY, Pipeline};
use crate::support::host::run;
use crate::support::{StandIn, program, with_mode};

#[test]
fn a_job_without_a_rule_is_denied() {
    let Some(pipeline) = Pipeline::start() else { return };
    let fork = json!({ "repository": "mallory/app", "ref": "refs/pull/7/merge", "event_name": "pull_request" });
    for (claims, what) in [
        (fork, "pull request of a fork"),
        (json!({ "ref": "refs/pull/7/merge", "event_name": "pull_request" }), "pull request"),
        (json!({ "event_name": "pull_request_target" }), "run on the base branch for a fork"),
        (json!({ "ref": "refs/heads/maintenance" }), "another branch"),
        (json!({ "repository": "acme/app2" }), "a repository with the same prefix"),
        (json!({ "repository": "ACME/app" }), "a repository in another case"),
        (json!({ "repository": "\u{430}cme/app" }), "a repository with a homoglyph"),
        (json!({ "repository": "acme/app/../app" }), "a repository with dot segments"),
    ] {
        let mut all = claims.clone();
        all["aud"] = GATEWAY.into();
        let name = |claim: &str, usual: &str| claims[claim].as_str().unwrap_or(usual).to_owned();
        all["sub"] = format!("repo:{}:ref:{}", name("repository", "acme/app"), name("ref", "refs/heads/main")).into();
        let token = pipeline.stand_in.mint("github", &json!({ "claims": all }));
        pipeline.denies(&token, what, "the token may not read its list of vaults: 403 Forbidden", "no-rule");
        let record = pipeline.last();
        assert_eq!((&record["verified"], &record["subject"]), (&json!(true), &all["sub"]), "{what}");
        for (claim, value) in claims.as_object().unwrap() {
            assert_eq!(record["claims"][claim], *value, "{what}");
        }
    }
}

#[test]
fn a_forged_token_is_denied() {
    let Some(pipeline) = Pipeline::start() else { return };
    let aud = json!({ "aud": GATEWAY });
    let refused = "refuses the token: 401 Unauthorized";
    for (body, what, reason) in [
        (json!({ "claims": { "aud": "https://other.example" } }), "another audience", "audience"),
        (json!({ "claims": aud, "algorithm": "none" }), "unsigned", "algorithm"),
        (json!({ "claims": aud, "algorithm": "HS256" }), "signed by the public key", "algorithm"),
        (
            json!({ "claims": aud, "algorithm": "HS256", "header": { "alg": "RS256" } }),
            "the same under the right name",
            "signature",
        ),
        (json!({ "claims": aud, "by": "gitlab" }), "a key id of another issuer", "unknown-key"),
        (
            json!({ "claims": aud, "by": "gitlab", "header": { "kid": "github-key-1" } }),
            "with the key id of the issuer",
            "signature",
        ),
        (json!({ "claims": { "aud": GATEWAY, "padding": "x".repeat(20_000) } }), "a huge token", "token-too-large"),
    ] {
        pipeline.denies(&pipeline.stand_in.mint("github", &body), what, refused, reason);
    }
}

#[test]
fn an_expired_token_is_not_sent_and_is_denied() {
    let Some(pipeline) = Pipeline::start() else { return };
    let claims = json!({ "claims": { "aud": GATEWAY, "exp": 1_700_000_000, "iat": 1_699_999_700 } });
    let expired = pipeline.stand_in.mint("github", &claims);
    let refusal = "refusing to send the token of GitLab CI in TOKEN: it expired at 2023-11-14T22:13:20Z";
    pipeline.is_refused(&expired, refusal);
    assert_eq!(pipeline.audit(), "");
    assert_eq!(pipeline.answers(&expired), 401);
    pipeline.has_recorded(&expired, "an expired token", "expired");
}

#[test]
fn replaced_keys_are_not_accepted() {
    let Some(mut pipeline) = Pipeline::start() else { return };
    let body = |header: Value| json!({ "claims": { "aud": GATEWAY }, "header": header });
    let genuine = pipeline.stand_in.mint("github", &body(json!({})));
    assert_eq!(pipeline.answers(&genuine), 200);

    // The issuer's discovery document refers to keys on another server.
    let elsewhere = pipeline.stand_in.issuer("github-mallory").replace("127.0.0.1", "localhost");
    let document = json!({ "jwks_uri": format!("{elsewhere}/.well-known/jwks") });
    pipeline.stand_in.control_issuer("github", "discovery", &document);
    let mut swapped = body(json!({}));
    swapped["by"] = "github-mallory".into();
    let swapped = pipeline.stand_in.mint("github", &swapped);
    assert_eq!(pipeline.answers(&swapped), 503);
    pipeline.has_recorded(&swapped, "keys on another server", "issuer-down");

    // Another server has the issuer's address and keys with the same ids, but no trusted certificate.
    let port = pipeline.stand_in.issuer("").rsplit(':').next().unwrap().trim_matches('/').to_owned();
    let directory = tempfile::tempdir().unwrap();
    drop(std::mem::replace(&mut pipeline.stand_in, StandIn::start(&[])));
    let impostor =
        StandIn::start(&["--dir", directory.path().to_str().unwrap(), "--tls", "--issuers-port", port.as_str()]);
    let forged = impostor.mint("github", &body(json!({})));
    assert_eq!(pipeline.answers(&forged), 401);
    pipeline.has_recorded(&forged, "an impostor's key of the same name", "signature");
    impostor.control_issuer("github", "rotate", &json!({}));
    let forged = impostor.mint("github", &body(json!({})));
    assert_eq!(pipeline.answers(&forged), 503);
    pipeline.has_recorded(&forged, "an impostor's new key", "issuer-down");
    // The genuine token is still accepted; then Connect does not answer, because it stopped together with the issuer.
    assert_eq!(pipeline.answers(&genuine), 503);
    pipeline.has_recorded(&genuine, "a genuine token", "connect-down");
    assert_eq!(pipeline.last()["verified"], true);
}

impl Pipeline {
    /// Asserts that the gateway denies a token and records that.
    fn denies(&self, token: &str, what: &str, words: &str, reason: &str) {
        let lines = self.audit().lines().count();
        self.is_refused(token, words);
        assert!(self.audit().lines().count() > lines, "{what} is not in the audit");
        self.has_recorded(token, what, reason);
    }

    fn has_recorded(&self, token: &str, what: &str, reason: &str) {
        let last = self.last();
        assert_eq!((&last["decision"], &last["reason"]), (&json!("denied"), &json!(reason)), "{what}: {last}");
        assert!(token.split('.').all(|part| part.len() < 40 || !self.audit().contains(&part[..40])), "{what}");
    }

    fn is_refused(&self, token: &str, words: &str) {
        let directory = tempfile::tempdir().unwrap();
        let settings = directory.path().join("settings.toml");
        let text = "[connect]\nurl = \"https://secrets.acme.example:8443\"\ntoken = { gitlab-id-token = \"TOKEN\" }\n";
        with_mode(&settings, text.as_bytes(), 0o644);
        let mut check = Command::new(program("oci-secrets"));
        check.env_clear().env("TOKEN", token).arg("--settings").arg(&settings).arg("check");
        let output = run(&mut check, b"");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_ne!(output.status.code(), Some(0), "{text}");
        let connect = text.lines().find(|line| line.starts_with("problem  connect:"));
        assert!(connect.is_some_and(|line| line.contains(words)), "{text}");
    }

    /// The status of the gateway's response to a client that does not check the token.
    pub(crate) fn answers(&self, token: &str) -> u16 {
        let config = format!("header = \"Authorization: Bearer {token}\"");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--config", "-"]);
        let output = run(curl.arg(format!("{GATEWAY}:8443/v1/vaults")), config.as_bytes());
        String::from_utf8(output.stdout).unwrap().parse().unwrap()
    }

    /// The last record of the gateway.
    fn last(&self) -> Value {
        serde_json::from_str(self.audit().lines().last().expect("nothing was recorded")).unwrap()
    }
}

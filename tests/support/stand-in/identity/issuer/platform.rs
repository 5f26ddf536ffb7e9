//! The platforms: their discovery documents and the claims of their tokens.
//!
//! [GitHub](https://docs.github.com/actions/reference/security/oidc) ·
//! [GitLab](https://docs.gitlab.com/ci/secrets/id_token_authentication/) ·
//! [Kubernetes](https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/). Numeric ids
//! and booleans are strings there.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// A platform that issues tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Platform {
    GitHub,
    GitLab,
    Kubernetes,
    /// Only the claims that the standard requires.
    Generic,
}

impl Platform {
    /// The platform with which the issuer's name begins.
    pub(crate) fn of(issuer: &str) -> Platform {
        match issuer.split('-').next() {
            Some("github") => Platform::GitHub,
            Some("gitlab") => Platform::GitLab,
            Some("kubernetes") => Platform::Kubernetes,
            _ => Platform::Generic,
        }
    }

    /// The path of its keys below the issuer.
    pub(crate) fn jwks_path(self) -> &'static str {
        match self {
            Platform::GitHub => ".well-known/jwks",
            Platform::GitLab => "oauth/discovery/keys",
            Platform::Kubernetes => "openid/v1/jwks",
            Platform::Generic => "keys",
        }
    }

    /// The discovery document, without optional members.
    pub(crate) fn discovery(self, issuer: &str, algorithm: &str) -> Value {
        json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/{}", self.jwks_path()),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [algorithm],
            "scopes_supported": ["openid"],
        })
    }

    /// The claims of a job of `acme/app` on its branch `main`, or of a pod of the service account `deployer`.
    pub(crate) fn claims(self, issuer: &str, audience: &str) -> Map<String, Value> {
        let now = Timestamp::now().as_second();
        let (mut claims, before, lifetime) = match self {
            Platform::GitHub => (github(), 600, 300),
            Platform::GitLab => (gitlab(), 5, 3600),
            Platform::Kubernetes => (kubernetes(), 0, 3600),
            Platform::Generic => (json!({ "sub": "job" }), 0, 300),
        };
        let registered = json!({
            "iss": issuer,
            "aud": audience,
            "iat": now,
            "nbf": now - before,
            "exp": now + lifetime,
            "jti": format!("{:016x}", fastrand::u64(..)),
        });
        let claims = claims.as_object_mut().unwrap();
        claims.extend(registered.as_object().unwrap().clone());
        std::mem::take(claims)
    }
}

fn github() -> Value {
    json!({
        "sub": "repo:acme/app:ref:refs/heads/main",
        "ref": "refs/heads/main",
        "ref_type": "branch",
        "ref_protected": "true",
        "sha": "2f1d3bcb9a0ac3d4f6ed1c2d6a3d5b0a4b1c7e90",
        "repository": "acme/app",
        "repository_id": "740231",
        "repository_owner": "acme",
        "repository_owner_id": "65123",
        "repository_visibility": "private",
        "actor": "octocat",
        "actor_id": "12",
        "workflow": "deploy",
        "workflow_ref": "acme/app/.github/workflows/deploy.yml@refs/heads/main",
        "workflow_sha": "2f1d3bcb9a0ac3d4f6ed1c2d6a3d5b0a4b1c7e90",
        "job_workflow_ref": "acme/app/.github/workflows/deploy.yml@refs/heads/main",
        "job_workflow_sha": "2f1d3bcb9a0ac3d4f6ed1c2d6a3d5b0a4b1c7e90",
        "event_name": "push",
        "head_ref": "",
        "base_ref": "",
        "run_id": "9112233445",
        "run_number": "10",
        "run_attempt": "1",
        "runner_environment": "github-hosted",
    })
}

fn gitlab() -> Value {
    json!({
        "sub": "project_path:acme/app:ref_type:branch:ref:main",
        "namespace_id": "72",
        "namespace_path": "acme",
        "project_id": "20",
        "project_path": "acme/app",
        "project_visibility": "private",
        "user_id": "1",
        "user_login": "octocat",
        "user_email": "octocat@acme.example",
        "user_access_level": "maintainer",
        "user_identities": [{ "provider": "saml", "extern_uid": "2435223452345" }],
        "groups_direct": ["acme", "acme/ops"],
        "pipeline_id": "574",
        "pipeline_source": "push",
        "job_id": "302",
        "ref": "main",
        "ref_type": "branch",
        "ref_path": "refs/heads/main",
        "ref_protected": "true",
        "environment": "production",
        "environment_protected": "true",
        "deployment_tier": "production",
        "environment_action": "start",
        "runner_id": 1,
        "runner_environment": "self-hosted",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "ci_config_ref_uri": "gitlab.example/acme/app//.gitlab-ci.yml@refs/heads/main",
        "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
    })
}

fn kubernetes() -> Value {
    json!({
        "sub": "system:serviceaccount:agents:deployer",
        "kubernetes.io": {
            "namespace": "agents",
            "node": { "name": "node-1", "uid": "3f0c8d4e-1f5b-4a41-9d0a-2f6f5f0d9b11" },
            "pod": { "name": "deployer-7d4b9", "uid": "9a1e9a52-5b1d-4d6e-8a0e-0d9a4b8c7f21" },
            "serviceaccount": { "name": "deployer", "uid": "c4b6e1a0-7b1c-4b0a-9f6d-5f4f3a2e1d0c" },
        },
    })
}

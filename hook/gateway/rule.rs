//! Rules: which identities may have what.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use super::scope::Reach;
use super::settings::{Kind, name};
use crate::settings::Pattern;

/// What GitHub calls runs of the base branch's workflow for the pull requests of anybody.
const FORKS_EVENT: &str = "pull_request_target";
const EVENT: &str = "event_name";

/// One rule: identities of an issuer with all of these claims may have these references.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// By what the audit calls it.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// The `url` of the issuer.
    pub issuer: String,
    /// What each of these claims must match.
    pub claims: BTreeMap<String, Pattern>,
    /// What may be had.
    #[serde(deserialize_with = "at_least_one")]
    pub references: Vec<Reach>,
}

impl Rule {
    /// The claims by which it admits the bearer of a token, if it does.
    pub fn admits(&self, kind: Kind, claims: &Map<String, Value>) -> Option<BTreeMap<String, String>> {
        let mut used = BTreeMap::new();
        for (claim, pattern) in &self.claims {
            used.insert(claim.clone(), texts(claims, claim).into_iter().find(|text| pattern.matches(text))?);
        }
        // It runs with the rights of the branch, for code that anybody may have proposed: only a rule that names it means it.
        let forks = kind == Kind::GitHub && claims.get(EVENT).is_some_and(|event| event == FORKS_EVENT);
        (!forks || self.claims.contains_key(EVENT)).then_some(used)
    }

    /// The claims that it looks at, each with the texts that it has, whether or not they match.
    pub fn looks_at<'a>(
        &'a self,
        kind: Kind,
        claims: &'a Map<String, Value>,
    ) -> impl Iterator<Item = (&'a str, Vec<String>)> {
        let event = (kind == Kind::GitHub).then_some(EVENT);
        self.claims.keys().map(String::as_str).chain(event).map(|claim| (claim, texts(claims, claim)))
    }

    /// Checks that it is for somebody in particular.
    ///
    /// # Errors
    /// It would admit strangers: every repository of GitHub gets tokens of the one issuer.
    pub(super) fn check(&self, kind: Kind) -> Result<(), RuleError> {
        let pins: &[&str] = match kind {
            Kind::GitHub => &["repository", "repository_id", "sub"],
            Kind::GitLab => &["project_path", "project_id", "sub"],
            Kind::Generic => &["sub", "kubernetes.io/namespace", "kubernetes.io/serviceaccount/name"],
        };
        let is_pinned =
            |claim: &&str| self.claims.get(*claim).is_some_and(|pattern| !pattern.as_str().starts_with('*'));
        if pins.iter().any(is_pinned) { Ok(()) } else { Err(RuleError::Anybody { pins }) }
    }

    /// What is valid, and yet may not be meant.
    pub(super) fn warnings(&self, kind: Kind) -> Vec<String> {
        let lacks = |claims: &[&str]| !claims.iter().any(|claim| self.claims.contains_key(*claim));
        let mut warnings = Vec::new();
        let mut warn = |reason: &str| warnings.push(format!("rule {}: {reason}", self.name));
        match kind {
            Kind::GitHub => {
                if lacks(&["repository_id", "repository_owner_id"]) {
                    warn("names can be given up and taken by others: add repository_owner_id or repository_id");
                }
                if lacks(&["ref", "environment", "workflow_ref", "job_workflow_ref", "sub"]) {
                    warn("every branch and pull request matches: add ref or environment");
                }
            }
            Kind::GitLab => {
                if lacks(&["project_id", "namespace_id"]) {
                    warn("names can be given up and taken by others: add project_id or namespace_id");
                }
                if lacks(&["ref", "ref_path", "ref_protected", "environment", "sub"]) {
                    warn("every branch and merge request matches: add ref_protected or environment");
                }
            }
            Kind::Generic => {}
        }
        warnings
    }
}

/// The texts that a claim has: of a list each of its members, and numbers and truth values as they are written.
///
/// A name with `/` that no claim has leads into claims that have claims of their own: `kubernetes.io/namespace`.
fn texts(claims: &Map<String, Value>, name: &str) -> Vec<String> {
    match claims.get(name) {
        Some(Value::Array(members)) => members.iter().filter_map(text).collect(),
        Some(claim) => text(claim).into_iter().collect(),
        None => match name.split_once('/') {
            Some((outer, inner)) => {
                claims.get(outer).and_then(Value::as_object).map(|claims| texts(claims, inner)).unwrap_or_default()
            }
            None => Vec::new(),
        },
    }
}

fn text(claim: &Value) -> Option<String> {
    match claim {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(claim.to_string()),
        _ => None,
    }
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Reach>, D::Error> {
    let references = Vec::deserialize(deserializer)?;
    if references.is_empty() { Err(de::Error::custom("expected at least one reference")) } else { Ok(references) }
}

/// Why a rule is refused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum RuleError {
    /// It is for no repository, project or subject in particular.
    #[error("claims: it is for everybody: expected one of {} that does not begin with \"*\"", pins.join(", "))]
    Anybody { pins: &'static [&'static str] },
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(claims: &[(&str, &str)]) -> Rule {
        let claims: Map<String, Value> =
            claims.iter().map(|(name, pattern)| (name.to_string(), json!(pattern))).collect();
        let rule = json!({ "name": "r", "issuer": "https://i", "claims": claims, "references": ["op://CI/*"] });
        serde_json::from_value(rule).unwrap()
    }

    fn admits(kind: Kind, rule: &Rule, claims: Value) -> bool {
        rule.admits(kind, claims.as_object().unwrap()).is_some()
    }

    #[test]
    fn admits_only_who_has_every_claim() {
        let rule = rule(&[("repository", "acme/app"), ("ref", "refs/heads/release/*")]);
        let used = rule.admits(
            Kind::GitHub,
            json!({ "repository": "acme/app", "ref": "refs/heads/release/1", "x": 1 }).as_object().unwrap(),
        );
        assert_eq!(used.unwrap().keys().collect::<Vec<_>>(), ["ref", "repository"]);
        for claims in [
            json!({ "repository": "acme/app" }),
            json!({ "repository": "acme/app", "ref": "refs/heads/main" }),
            json!({ "repository": "acme/app", "ref": "refs/heads/release" }),
            json!({ "repository": "acme/app", "ref": "refs/heads/release/../main" }),
            json!({ "repository": "acme/app", "ref": "refs/pull/7/merge" }),
            json!({ "repository": "acme/app-evil", "ref": "refs/heads/release/1" }),
            json!({ "repository": "evil/acme/app", "ref": "refs/heads/release/1" }),
            json!({ "repository": "Acme/app", "ref": "refs/heads/release/1" }),
            json!({ "repository": "acme/app", "ref": { "x": "refs/heads/release/1" } }),
            json!({ "repository": null, "ref": "refs/heads/release/1" }),
        ] {
            assert!(!admits(Kind::GitHub, &rule, claims.clone()), "{claims}");
        }
    }

    #[test]
    fn reads_lists_numbers_and_claims_within_claims() {
        let rule = rule(&[
            ("sub", "s"),
            ("groups", "acme/ops"),
            ("runner", "1"),
            ("kubernetes.io/pod/name", "*"),
            ("https://a/b", "c"),
        ]);
        let claims = json!({ "sub": "s", "groups": ["acme", "acme/ops"], "runner": 1, "kubernetes.io": { "pod": { "name": "p" } }, "https://a/b": "c" });
        assert!(admits(Kind::Generic, &rule, claims.clone()));
        let mut others = claims;
        others["groups"] = json!(["acme/ops/more", "ops"]);
        assert!(!admits(Kind::Generic, &rule, others));
    }

    #[test]
    fn admits_runs_for_forks_only_where_a_rule_names_them() {
        let claims = json!({ "repository": "acme/app", "event_name": "pull_request_target" });
        assert!(!admits(Kind::GitHub, &rule(&[("repository", "acme/app")]), claims.clone()));
        assert!(admits(
            Kind::GitHub,
            &rule(&[("repository", "acme/app"), ("event_name", "pull_request_target")]),
            claims
        ));
    }

    #[test]
    fn refuses_a_rule_for_everybody() {
        for claims in [
            &[][..],
            &[("ref", "refs/heads/main")],
            &[("repository", "*")],
            &[("repository", "*/app")],
            &[("repository_owner", "acme")],
        ] {
            assert!(rule(claims).check(Kind::GitHub).is_err(), "{claims:?}");
        }
        assert!(rule(&[("repository", "acme/*")]).check(Kind::GitHub).is_ok());
        assert!(rule(&[("repository", "acme/app")]).check(Kind::GitLab).is_err());
        assert!(rule(&[("project_id", "20")]).check(Kind::GitLab).is_ok());
        assert!(rule(&[("kubernetes.io/namespace", "agents")]).check(Kind::Generic).is_ok());
        assert!(rule(&[("email_verified", "true")]).check(Kind::Generic).is_err());
    }

    #[test]
    fn warns_of_names_without_ids_and_of_rules_for_every_branch() {
        assert_eq!(rule(&[("repository", "acme/app")]).warnings(Kind::GitHub).len(), 2);
        assert_eq!(
            rule(&[("repository", "acme/app"), ("repository_owner_id", "1"), ("ref", "refs/heads/main")])
                .warnings(Kind::GitHub)
                .len(),
            0
        );
        assert_eq!(rule(&[("project_path", "acme/app")]).warnings(Kind::GitLab).len(), 2);
    }
}

//! Rules: which identities may read which references.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

use super::claim::{self, Claims, Requirements};
use super::platform::Platform;
use super::scope::Reach;

/// One rule: identities of an issuer whose claims meet all requirements may read these references.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name in records.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// The `url` of the issuer.
    pub issuer: String,
    /// What each of these claims must be.
    #[serde(rename = "claims")]
    pub requirements: Requirements,
    /// What may be read.
    #[serde(deserialize_with = "at_least_one")]
    pub references: Vec<Reach>,
}

impl Rule {
    /// The claims by which the rule admits an identity, each with the parts that match; `None` if it does not.
    pub fn admits(&self, platform: Platform, claims: &Claims) -> Option<BTreeMap<String, Vec<String>>> {
        let met = self.requirements.iter().map(|(name, requirement)| {
            let matching = requirement.matching(claim::find(claims, name)?)?;
            Some((name.clone(), matching))
        });
        met.collect::<Option<_>>().filter(|_| platform.admits(&self.requirements, claims))
    }

    /// Checks that it requires what an identity can have, and that it is for a particular repository, project or subject.
    ///
    /// # Errors
    /// One of these is not so.
    pub(super) fn check(&self, platform: Platform) -> Result<(), RuleError> {
        for (claim, requirement) in &self.requirements {
            if let Some(expected) = platform.expected_type(claim, requirement) {
                return Err(RuleError::Type { claim: claim.clone(), expected });
            }
        }
        let pins = platform.pins();
        let pinned = |claim: &&str| self.requirements.get(*claim).and_then(|requirement| requirement.as_pattern());
        if pins.iter().filter_map(pinned).any(|pattern| !pattern.as_str().starts_with('*')) {
            Ok(())
        } else {
            Err(RuleError::Unpinned { pins })
        }
    }

    /// What it also matches, although that may not be intended.
    pub(super) fn warnings(&self, platform: Platform) -> Vec<String> {
        platform.warnings(&self.requirements).iter().map(|reason| format!("rule {}: {reason}", self.name)).collect()
    }
}

/// A name in records: short, and of letters, digits, `.`, `_` and `-`.
fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    const NAME_BYTES_MAX: usize = 64;
    let name = String::deserialize(deserializer)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain) {
        return Ok(name);
    }
    Err(de::Error::custom("expected a name of 1 to 64 letters, digits, \".\", \"_\" and \"-\""))
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
    Unpinned { pins: &'static [&'static str] },
    /// It requires a type that the claim never has.
    #[error("claims.{claim}: this claim is {expected}")]
    Type { claim: String, expected: &'static str },
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rule(claims: Value) -> Rule {
        let rule = json!({ "name": "r", "issuer": "https://i", "claims": claims, "references": ["op://CI/*"] });
        serde_json::from_value(rule).unwrap()
    }

    fn admits(platform: Platform, rule: &Rule, claims: &Value) -> bool {
        rule.admits(platform, claims.as_object().unwrap()).is_some()
    }

    /// The claims with these put over them.
    fn with(claims: &Value, others: &Value) -> Value {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
        claims
    }

    #[test]
    fn admits_an_identity_that_meets_every_requirement() {
        let rule = rule(json!({ "repository": "acme/app", "ref": "refs/heads/release/*" }));
        let good = json!({ "repository": "acme/app", "ref": "refs/heads/release/1", "event_name": "push", "x": 1 });
        let used = rule.admits(Platform::GitHub, good.as_object().unwrap());
        assert_eq!(used.unwrap().keys().collect::<Vec<_>>(), ["ref", "repository"]);
        for (claim, values) in [
            (
                "ref",
                [
                    json!(null),
                    json!("refs/heads/main"),
                    json!("refs/heads/release"),
                    json!("refs/heads/release/../main"),
                    json!("refs/pull/7/merge"),
                    json!({ "x": "refs/heads/release/1" }),
                    json!(["refs/heads/release/1"]),
                ],
            ),
            (
                "repository",
                [
                    json!("acme/app-evil"),
                    json!("evil/acme/app"),
                    json!("Acme/app"),
                    json!("acme/app\u{0}"),
                    json!("\u{430}cme/app"),
                    json!(["acme/app"]),
                    json!(null),
                ],
            ),
        ] {
            for value in values {
                let claims = with(&good, &json!({ claim: value }));
                assert!(!admits(Platform::GitHub, &rule, &claims), "{claims}");
            }
        }
    }

    #[test]
    fn admits_github_events_that_anyone_can_cause_only_if_the_rule_names_them() {
        let plain = rule(json!({ "repository": "acme/app" }));
        let run = |event: Value| json!({ "repository": "acme/app", "event_name": event });
        for event in ["push", "workflow_dispatch", "schedule", "release", "merge_group"] {
            assert!(admits(Platform::GitHub, &plain, &run(json!(event))), "{event}");
        }
        let fenced =
            ["pull_request_target", "workflow_run", "issue_comment", "issues", "discussion_comment", "fork", "x"];
        for event in fenced {
            assert!(!admits(Platform::GitHub, &plain, &run(json!(event))), "{event}");
            let named = rule(json!({ "repository": "acme/app", "event_name": event }));
            assert!(admits(Platform::GitHub, &named, &run(json!(event))), "{event}");
            let open = rule(json!({ "repository": "acme/app", "event_name": "*" }));
            assert!(!admits(Platform::GitHub, &open, &run(json!(event))), "{event}");
        }
        for odd in [
            json!("PULL_REQUEST_TARGET"),
            json!("Push"),
            json!("push "),
            json!(""),
            json!(["push"]),
            json!(["pull_request_target"]),
            json!({ "push": true }),
            json!(null),
            json!(true),
            json!(1),
        ] {
            assert!(!admits(Platform::GitHub, &plain, &run(odd.clone())), "{odd}");
        }
        assert!(!admits(Platform::GitHub, &plain, &json!({ "repository": "acme/app" })));
    }

    #[test]
    fn a_gitlab_ref_is_a_branch_of_the_project_unless_the_rule_says_otherwise() {
        let run = json!({ "project_path": "acme/app", "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main",
            "ref_protected": "false", "pipeline_source": "push", "sub": "s" });
        let tag = with(&run, &json!({ "ref_type": "tag", "ref_path": "refs/tags/main" }));
        let fork = with(&run, &json!({ "pipeline_source": "merge_request_event" }));
        let admitted = |requirements: Value| {
            let rule = rule(with(&json!({ "project_path": "acme/app" }), &requirements));
            [&run, &tag, &fork].map(|run| admits(Platform::GitLab, &rule, run))
        };
        assert_eq!(admitted(json!({ "ref": "main" })), [true, false, false]);
        assert_eq!(admitted(json!({ "ref": "main", "ref_type": "branch" })), [true, false, false]);
        assert_eq!(admitted(json!({ "ref": "main", "ref_type": "tag" })), [false, true, false]);
        assert_eq!(admitted(json!({ "ref_path": "refs/heads/main" })), [true, false, false]);
        assert_eq!(admitted(json!({ "sub": "s" })), [true, true, false]);
        assert_eq!(admitted(json!({ "ref": "main", "ref_protected": "false" })), [true, false, false]);
        let requests = json!({ "ref": "main", "pipeline_source": "merge_request_event" });
        assert_eq!(admitted(requests), [false, false, true]);
        assert_eq!(admitted(json!({})), [true, true, true]);
        let plain = rule(json!({ "project_path": "acme/app", "ref": "main" }));
        for odd in [json!(["branch"]), json!(null), json!("Branch"), json!(true)] {
            assert!(!admits(Platform::GitLab, &plain, &with(&run, &json!({ "ref_type": odd }))));
            assert!(!admits(Platform::GitLab, &plain, &with(&run, &json!({ "pipeline_source": [odd] }))));
        }
        let protected = rule(json!({ "project_path": "acme/app", "ref": "main", "ref_protected": "true" }));
        assert!(admits(Platform::GitLab, &protected, &with(&tag, &json!({ "ref_protected": "true" }))));
        assert_eq!(plain.warnings(Platform::GitLab).len(), 2);
    }

    #[test]
    fn refuses_a_rule_for_everybody() {
        for claims in [
            json!({}),
            json!({ "ref": "refs/heads/main" }),
            json!({ "repository": "*" }),
            json!({ "repository": "*/app" }),
            json!({ "repository_owner": "acme" }),
        ] {
            assert!(
                matches!(rule(claims.clone()).check(Platform::GitHub), Err(RuleError::Unpinned { .. })),
                "{claims}"
            );
        }
        assert!(rule(json!({ "repository": "acme/*" })).check(Platform::GitHub).is_ok());
        assert!(rule(json!({ "repository": "acme/app" })).check(Platform::GitLab).is_err());
        assert!(rule(json!({ "project_id": "20" })).check(Platform::GitLab).is_ok());
        assert!(rule(json!({ "kubernetes.io/namespace": "agents" })).check(Platform::Generic).is_ok());
        assert!(rule(json!({ "email_verified": true })).check(Platform::Generic).is_err());
    }

    #[test]
    fn refuses_a_type_that_the_claim_never_has() {
        for (platform, claims) in [
            (Platform::GitHub, json!({ "repository": "acme/app", "repository_owner_id": 65123 })),
            (Platform::GitHub, json!({ "repository": ["acme/app"] })),
            (Platform::GitLab, json!({ "project_id": 20 })),
            (Platform::GitLab, json!({ "project_id": "20", "ref_protected": true })),
            (Platform::GitLab, json!({ "project_id": "20", "groups_direct": "acme/ops" })),
            (Platform::GitLab, json!({ "project_id": "20", "runner_id": "1" })),
            (Platform::Generic, json!({ "sub": ["job"] })),
        ] {
            assert!(matches!(rule(claims.clone()).check(platform), Err(RuleError::Type { .. })), "{claims}");
        }
        let lists = json!({ "project_id": "20", "groups_direct": ["acme/ops"], "runner_id": 1 });
        assert!(rule(lists).check(Platform::GitLab).is_ok());
        let own = json!({ "sub": "job", "groups": ["ops"], "level": 3, "email_verified": true, "team": "a" });
        assert!(rule(own).check(Platform::Generic).is_ok());
    }

    #[test]
    fn warns_about_names_without_ids_and_rules_for_every_branch() {
        let count = |platform, claims| rule(claims).warnings(platform).len();
        assert_eq!(count(Platform::GitHub, json!({ "repository": "acme/app" })), 2);
        let pinned = json!({ "repository": "acme/app", "repository_owner_id": "1", "ref": "refs/heads/main" });
        assert_eq!(count(Platform::GitHub, pinned), 0);
        assert_eq!(count(Platform::GitLab, json!({ "project_path": "acme/app" })), 2);
    }
}

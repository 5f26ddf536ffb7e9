//! Platforms that issue tokens: what their claims mean, and which runs a rule must name before it admits them.

use serde::Deserialize;

use super::claim::{Claims, Requirement, Requirements, find_text};

/// What an issuer is, and so what its claims mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// GitHub Actions.
    GitHub,
    /// GitLab CI.
    GitLab,
    /// Kubernetes, or any other.
    #[default]
    Generic,
}

/// The claims of any platform by which [`Platform::admits`] decides.
pub const FENCE_CLAIMS: &[&str] = &[EVENT, PIPELINE_SOURCE, REF, REF_PATH, REF_PROTECTED, REF_TYPE];

const EVENT: &str = "event_name";
const PIPELINE_SOURCE: &str = "pipeline_source";
const REF: &str = "ref";
const REF_PATH: &str = "ref_path";
const REF_PROTECTED: &str = "ref_protected";
const REF_TYPE: &str = "ref_type";

/// GitHub's events that only users who can write to the repository cause, or whose runs have a ref of their own.
///
/// Any other event (`pull_request_target`, `workflow_run`, `issue_comment`, `issues`, `discussion`, `fork`, `watch` and so on) can
/// be caused by any user of GitHub, and runs with the rights of the default branch.
const EVENTS_OF_WRITERS: &[&str] = &[
    "branch_protection_rule",
    "create",
    "delete",
    "deployment",
    "deployment_status",
    "label",
    "merge_group",
    "milestone",
    "page_build",
    "public",
    "pull_request",
    "push",
    "registry_package",
    "release",
    "repository_dispatch",
    "schedule",
    "workflow_dispatch",
];

const MERGE_REQUEST: &str = "merge_request_event";

impl Platform {
    /// Whether a rule with these requirements, which the claims meet, admits such a run without naming it.
    pub fn admits(self, requirements: &Requirements, claims: &Claims) -> bool {
        match self {
            Platform::GitHub => find_text(claims, EVENT)
                .is_some_and(|event| EVENTS_OF_WRITERS.contains(&event) || names(requirements, EVENT, event)),
            Platform::GitLab => admits_pipeline(requirements, claims),
            Platform::Generic => true,
        }
    }

    /// The claims by which it decides, in addition to those of rules.
    pub fn fence_claims(self) -> &'static [&'static str] {
        match self {
            Platform::GitHub => &[EVENT],
            Platform::GitLab => &[PIPELINE_SOURCE, REF_TYPE],
            Platform::Generic => &[],
        }
    }

    /// The claims of which a rule must pin one: every repository of GitHub has tokens of the same issuer.
    pub fn pins(self) -> &'static [&'static str] {
        match self {
            Platform::GitHub => &["repository", "repository_id", "sub"],
            Platform::GitLab => &["project_path", "project_id", "sub"],
            Platform::Generic => &["sub", "kubernetes.io/namespace", "kubernetes.io/serviceaccount/name"],
        }
    }

    /// The type of a claim, if it is known and the requirement has another.
    pub fn expected_type(self, claim: &str, requirement: &Requirement) -> Option<&'static str> {
        let (expected, is_met) = match (self, claim) {
            (Platform::GitLab, "groups_direct") => ("a list", matches!(requirement, Requirement::Members(_))),
            (Platform::GitLab, "runner_id") => ("a number", matches!(requirement, Requirement::Number(_))),
            (Platform::Generic, claim) if claim != "sub" && !claim.starts_with("kubernetes.io/") => return None,
            _ => ("a string", requirement.as_pattern().is_some()),
        };
        (!is_met).then_some(expected)
    }

    /// What valid requirements also match, although that may not be intended.
    pub fn warnings(self, requirements: &Requirements) -> Vec<&'static str> {
        let lacks = |claims: &[&str]| !claims.iter().any(|claim| requirements.contains_key(*claim));
        let mut warnings = Vec::new();
        match self {
            Platform::GitHub => {
                if lacks(&["repository_id", "repository_owner_id"]) {
                    warnings
                        .push("names can be given up and taken by others: add repository_owner_id or repository_id");
                }
                if lacks(&[REF, "environment", "workflow_ref", "job_workflow_ref", "sub"]) {
                    warnings.push("every branch and pull request matches: add ref or environment");
                }
            }
            Platform::GitLab => {
                if lacks(&["project_id", "namespace_id"]) {
                    warnings.push("names can be given up and taken by others: add project_id or namespace_id");
                }
                if lacks(&[REF, REF_PATH, REF_PROTECTED, "environment", "sub"]) {
                    warnings.push("every branch and merge request matches: add ref_protected or environment");
                }
                if implies_branch(requirements) {
                    warnings.push(
                        "ref names a branch here, and no tag: add ref_type = \"branch\" or ref_protected = \"true\"",
                    );
                }
            }
            Platform::Generic => {}
        }
        warnings
    }
}

/// A branch and a tag can have one name, and a merge request has the ref of its source, which can be in a fork.
fn admits_pipeline(requirements: &Requirements, claims: &Claims) -> bool {
    let is_of_a_branch = !implies_branch(requirements) || find_text(claims, REF_TYPE) == Some("branch");
    let looks_at_ref = [REF, REF_PATH, "sub"].iter().any(|claim| requirements.contains_key(*claim));
    let may_be_a_merge_request =
        !looks_at_ref || requirements.contains_key(PIPELINE_SOURCE) || names(requirements, REF_PROTECTED, "true");
    is_of_a_branch
        && (may_be_a_merge_request || find_text(claims, PIPELINE_SOURCE).is_some_and(|source| source != MERGE_REQUEST))
}

/// Whether `ref` stands alone, without what would distinguish a branch from a tag.
fn implies_branch(requirements: &Requirements) -> bool {
    requirements.contains_key(REF)
        && !requirements.contains_key(REF_TYPE)
        && !requirements.contains_key(REF_PATH)
        && !names(requirements, REF_PROTECTED, "true")
}

/// Whether a claim is required to have exactly this value.
fn names(requirements: &Requirements, claim: &str, value: &str) -> bool {
    requirements.get(claim).and_then(Requirement::as_pattern).is_some_and(|pattern| pattern.as_str() == value)
}

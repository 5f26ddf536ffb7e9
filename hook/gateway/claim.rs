//! Claims of a token, and what a rule requires of one.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::settings::Pattern;

/// The claims of a token.
pub type Claims = Map<String, Value>;

/// What a rule requires, by the name of the claim.
pub type Requirements = BTreeMap<String, Requirement>;

/// What a rule requires of one claim. Its type in the settings is the type that the claim must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// A string that matches.
    Text(Pattern),
    /// A list of strings in which each of these has a member that matches.
    Members(Vec<Pattern>),
    /// This whole number.
    Number(i64),
    /// `true` or `false`.
    Truth(bool),
}

impl Requirement {
    /// The parts of the claim that meet it; `None` if the claim does not.
    pub fn matching(&self, claim: &Value) -> Option<Vec<String>> {
        match (self, claim) {
            (Requirement::Text(pattern), Value::String(text)) if pattern.matches(text) => Some(vec![text.clone()]),
            (Requirement::Members(patterns), Value::Array(members)) => {
                // A list that holds something else is not a list of strings.
                let members: Vec<&str> = members.iter().map(Value::as_str).collect::<Option<_>>()?;
                let member = |pattern: &Pattern| members.iter().find(|member| pattern.matches(member));
                patterns.iter().map(|pattern| member(pattern).map(|member| (*member).to_owned())).collect()
            }
            (Requirement::Number(number), claim) if claim.as_i64() == Some(*number) => Some(vec![number.to_string()]),
            (Requirement::Truth(truth), Value::Bool(found)) if truth == found => Some(vec![truth.to_string()]),
            _ => None,
        }
    }

    /// The pattern, if it requires a string.
    pub fn as_pattern(&self) -> Option<&Pattern> {
        match self {
            Requirement::Text(pattern) => Some(pattern),
            _ => None,
        }
    }
}

/// The value of a claim.
///
/// A name with `/` that no claim has leads into a claim that is an object: `kubernetes.io/namespace`.
pub fn find<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (outer, inner) = name.split_once('/')?;
        find(claims.get(outer)?.as_object()?, inner)
    })
}

/// The value of a claim that is a string.
pub fn find_text<'a>(claims: &'a Claims, name: &str) -> Option<&'a str> {
    find(claims, name).and_then(Value::as_str)
}

/// What a record shows of a claim: of a list each member that is not itself a list or an object.
pub fn texts(claims: &Claims, name: &str) -> Vec<String> {
    match find(claims, name) {
        Some(Value::Array(members)) => members.iter().filter_map(text).collect(),
        Some(claim) => text(claim).into_iter().collect(),
        None => Vec::new(),
    }
}

fn text(claim: &Value) -> Option<String> {
    match claim {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(claim.to_string()),
        _ => None,
    }
}

impl<'de> Deserialize<'de> for Requirement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Requirement, D::Error> {
        deserializer.deserialize_any(RequirementVisitor)
    }
}

struct RequirementVisitor;

impl<'de> Visitor<'de> for RequirementVisitor {
    type Value = Requirement;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a pattern, a list of patterns, a whole number, or a boolean")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Requirement, E> {
        Pattern::try_from(text.to_owned()).map(Requirement::Text).map_err(E::custom)
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Requirement, E> {
        Ok(Requirement::Truth(truth))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Requirement, E> {
        Ok(Requirement::Number(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Requirement, E> {
        let number = i64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))?;
        Ok(Requirement::Number(number))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Requirement, A::Error> {
        let mut patterns = Vec::new();
        while let Some(pattern) = sequence.next_element()? {
            patterns.push(pattern);
        }
        if patterns.is_empty() { Err(A::Error::invalid_length(0, &self)) } else { Ok(Requirement::Members(patterns)) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn meets(requirement: Value, claim: Value) -> bool {
        let requirement: Requirement = serde_json::from_value(requirement).unwrap();
        requirement.matching(&claim).is_some()
    }

    #[test]
    fn a_claim_has_the_type_of_its_requirement_or_does_not_meet_it() {
        let examples = [json!("1"), json!(["1"]), json!(1), json!(true)];
        let others =
            [json!(null), json!({}), json!({ "1": "1" }), json!([]), json!([["1"]]), json!(1.0), json!("true")];
        for requirement in &examples {
            for claim in examples.iter().chain(&others) {
                assert_eq!(
                    meets(requirement.clone(), claim.clone()),
                    requirement == claim,
                    "{requirement} against {claim}"
                );
            }
        }
    }

    #[test]
    fn a_list_has_a_member_for_each_pattern_and_strings_alone() {
        let groups = json!(["acme", "acme/ops"]);
        assert!(meets(json!(["acme/ops"]), groups.clone()) && meets(json!(["acme", "acme/*"]), groups.clone()));
        assert!(!meets(json!(["acme/ops", "acme/dev"]), groups.clone()) && !meets(json!("acme/ops"), groups));
        assert!(!meets(json!(["acme"]), json!(["acme", 1])));
        assert!(serde_json::from_value::<Requirement>(json!([])).is_err());
        assert!(serde_json::from_value::<Requirement>(json!([1])).is_err());
        assert!(serde_json::from_value::<Requirement>(json!(u64::MAX)).is_err());
    }

    #[test]
    fn finds_claims_within_claims() {
        let claims = json!({ "kubernetes.io": { "pod": { "name": "p" } }, "https://a/b": "c", "list": [1, "x", [2]] });
        let claims = claims.as_object().unwrap();
        assert_eq!(find_text(claims, "kubernetes.io/pod/name"), Some("p"));
        assert_eq!(find_text(claims, "https://a/b"), Some("c"));
        assert_eq!(find_text(claims, "kubernetes.io/namespace"), None);
        assert_eq!(texts(claims, "list"), ["1", "x"]);
    }
}

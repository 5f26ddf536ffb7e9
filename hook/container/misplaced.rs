//! References and templates in the wrong place: a misspelt key must not start a container without its secrets.

use serde_json::{Map, Value};

use super::key;
use crate::json;

const SCHEME: &str = "op://";

/// Whether a text looks like a reference, or like a template with one.
pub fn is_reference(text: &str) -> bool {
    begins_with_scheme(text) || (has_placeholder(text) && !is_copy(text))
}

fn begins_with_scheme(text: &str) -> bool {
    let begin = text.trim_start().get(..SCHEME.len());
    begin.is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

fn has_placeholder(text: &str) -> bool {
    text.split("{{").skip(1).any(begins_with_scheme)
}

/// Whether a text is a JSON object that repeats annotations, as that of `kubectl apply` does: its templates are under keys of ours.
fn is_copy(text: &str) -> bool {
    json::from_str::<Map<String, Value>>(text).is_ok_and(|members| has_copies_only(&members))
}

fn has_copies_only(members: &Map<String, Value>) -> bool {
    members.iter().all(|(key, value)| key::is_ours(key) || (!has_placeholder(key) && is_copied(value)))
}

fn is_copied(value: &Value) -> bool {
    match value {
        Value::String(text) => !has_placeholder(text) || is_copy(text),
        Value::Array(values) => values.iter().all(is_copied),
        Value::Object(members) => has_copies_only(members),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_annotations_is_no_request_and_a_template_of_json_is_one() {
        let annotations = r#"{"run.secrets/a":"{{ op://v/i/f }}","app.run.secrets/b":"op://v/i/f","x":null}"#;
        let applied = format!(r#"{{"kind":"Pod","spec":[{{"x":1}}],"metadata":{{"annotations":{annotations}}}}}"#);
        let nested = serde_json::json!({ "last-applied-configuration": applied }).to_string();
        for copy in [annotations, &applied, &nested, &format!(" {applied}\n")] {
            assert!(!is_reference(copy), "{copy}");
        }
        for template in [
            r#"{"password":"{{ op://v/i/f }}"}"#,
            r#"{"a":[{"b":"x {{op://v/i/f}}"}],"run.secrets/a":"{{ op://v/i/f }}"}"#,
            r#"{"a":"{{ op://v/i/f }}","a":""}"#,
            r#"{"{{ op://v/i/f }}":1}"#,
            r#"{"a":{{ op://v/i/f }}}"#,
            r#"["{{ op://v/i/f }}"]"#,
            &nested.replace("run.secrets/a", "run.secret/a"),
        ] {
            assert!(is_reference(template), "{template}");
        }
    }
}

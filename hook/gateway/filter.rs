//! Filters on lists, `<attribute> eq "<value>"`. They apply to what is in scope, so a filter reveals nothing else.

use serde_json::{Map, Value};

use super::denial::Denial;

/// The longest filter.
const FILTER_BYTES_MAX: usize = 1024;

/// A filter on a list of vaults or items.
pub struct Filter {
    attribute: Attribute,
    contains: bool,
    value: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Attribute {
    /// The name of a vault, or the title of an item. 1Password's clients use either word for vaults.
    Name,
    Tag,
}

impl Filter {
    /// Parses `eq`, and `co` (contains), which 1Password's JavaScript client sends. A quote of either kind cannot be in the value.
    ///
    /// # Errors
    /// It is not such a filter.
    pub fn parse(text: &str) -> Result<Filter, Denial> {
        parse(text).ok_or(Denial::Invalid { what: "Invalid filter" })
    }

    /// The filter for Connect, unless Connect could understand it differently.
    pub fn for_connect(&self, name: &str) -> Option<String> {
        (self.attribute == Attribute::Name && !self.contains).then(|| format!("{name} eq \"{}\"", self.value))
    }

    /// The value.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether the visible part of a vault or an item matches.
    pub fn matches(&self, object: &Map<String, Value>) -> bool {
        let is_match =
            |text: &str| if self.contains { text.contains(&self.value) } else { text == self.value.as_str() };
        match self.attribute {
            Attribute::Name => {
                let name = object.get("title").or_else(|| object.get("name")).and_then(Value::as_str);
                is_match(name.unwrap_or_default())
            }
            Attribute::Tag => {
                let tags = object.get("tags").and_then(Value::as_array).into_iter().flatten();
                tags.filter_map(Value::as_str).any(is_match)
            }
        }
    }
}

fn parse(text: &str) -> Option<Filter> {
    let (attribute, rest) = text.trim().split_once(' ')?;
    let (operator, rest) = rest.trim_start().split_once(' ')?;
    let value = rest.trim().strip_prefix('"')?.strip_suffix('"')?;
    let attribute = match attribute {
        "name" | "title" => Attribute::Name,
        "tag" => Attribute::Tag,
        _ => return None,
    };
    let contains = match operator {
        "eq" => false,
        "co" => true,
        _ => return None,
    };
    let is_plain =
        text.len() <= FILTER_BYTES_MAX && !value.contains(['"', '\'', '\\']) && !value.contains(char::is_control);
    is_plain.then(|| Filter { attribute, contains, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(filter: &str, object: Value) -> bool {
        Filter::parse(filter).unwrap_or_else(|_| panic!("{filter}")).matches(object.as_object().unwrap())
    }

    #[test]
    fn compares_as_connect_does() {
        assert!(matches(r#"title eq "a b""#, json!({ "title": "a b" })));
        assert!(!matches(r#"title eq "a""#, json!({ "title": "A" })));
        assert!(
            matches(r#"name eq "CI""#, json!({ "name": "CI" })) && matches(r#"title eq "CI""#, json!({ "name": "CI" }))
        );
        assert!(matches(r#"title co "b""#, json!({ "title": "abc" })));
        assert!(
            matches(r#"tag eq "x""#, json!({ "tags": ["y", "x"] })) && !matches(r#"tag eq "x""#, json!({ "tags": [] }))
        );
    }

    #[test]
    fn refuses_what_connect_could_understand_differently() {
        for filter in [
            "",
            "title",
            r#"title eq a"#,
            r#"title ne "a""#,
            r#"urls.href eq "a""#,
            r#"title eq "a" or title eq "b""#,
            r#"title eq "it's""#,
            "title eq \"a\\\"",
            "title eq \"a\nb\"",
        ] {
            assert!(Filter::parse(filter).is_err(), "{filter}");
        }
    }
}

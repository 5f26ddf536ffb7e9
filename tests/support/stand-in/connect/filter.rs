//! The SCIM filter that Connect supports: `<attribute> eq "<value>"`.

/// A filter on a list of vaults or items. The comparison is exact: Connect, unlike 1Password itself, is case-sensitive.
pub(crate) struct Filter {
    pub(crate) attribute: String,
    pub(crate) value: String,
    contains: bool,
}

impl Filter {
    /// Parses `eq`, and `co` (contains), which 1Password's JavaScript client sends. A quote of either kind cannot be in the value.
    pub(crate) fn parse(text: &str) -> Option<Filter> {
        let (attribute, rest) = text.trim().split_once(' ')?;
        let (operator, rest) = rest.trim_start().split_once(' ')?;
        let value = rest.trim().strip_prefix('"')?.strip_suffix('"')?;
        let contains = match operator {
            "eq" => false,
            "co" => true,
            _ => return None,
        };
        let filter = Filter { attribute: attribute.to_owned(), value: value.to_owned(), contains };
        (!value.contains(['"', '\''])).then_some(filter)
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        if self.contains { text.contains(&self.value) } else { text == self.value }
    }
}

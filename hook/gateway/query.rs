//! The query of a request, as far as Connect knows it.

use serde_json::{Map, Value};

use super::denial::Denial;
use super::filter::Filter;

/// The parts of a query that have an effect.
pub struct Query {
    /// `filter`.
    pub filter: Option<Filter>,
    /// `inline_files=true`.
    pub inline_files: bool,
}

impl Query {
    /// Parses a query.
    ///
    /// # Errors
    /// Its filter is not valid, or there are several.
    pub fn parse(text: &str) -> Result<Query, Denial> {
        let mut query = Query { filter: None, inline_files: false };
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*name {
                "filter" if query.filter.is_some() => return Err(Denial::Invalid { what: "Invalid filter" }),
                "filter" => query.filter = Some(Filter::parse(&value)?),
                "inline_files" => query.inline_files = value == "true",
                _ => {}
            }
        }
        Ok(query)
    }

    /// Whether a vault or an item, of which the hidden parts are removed, passes the filter.
    pub fn matches(&self, object: &Map<String, Value>) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.matches(object))
    }

    /// The filter for Connect, which spares it entries that do not pass.
    pub fn filter_for_connect(&self, name: &str) -> Option<String> {
        self.filter.as_ref().and_then(|filter| filter.for_connect(name))
    }

    /// The query for Connect about files.
    pub fn inline(&self) -> &'static [(&'static str, &'static str)] {
        if self.inline_files { &[("inline_files", "true")] } else { &[] }
    }
}

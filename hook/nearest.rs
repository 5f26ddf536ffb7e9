//! The existing name that is nearest to one that does not exist.

/// How alike two names are that may be one, mistyped; 1 is the same.
const ALIKE_MIN: f64 = 0.8;

/// The nearest of these names, if one is near.
pub fn nearest<'a>(mistyped: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = names.into_iter().filter_map(|name| Some((name, likeness(mistyped, name)?)));
    near.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(name, _)| name)
}

/// How alike two names are, in any case; `None` if neither can be a misspelling of the other.
pub fn likeness(one: &str, other: &str) -> Option<f64> {
    let likeness = strsim::jaro_winkler(&one.to_lowercase(), &other.to_lowercase());
    (likeness >= ALIKE_MIN).then_some(likeness)
}

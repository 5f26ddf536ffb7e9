//! The name that may have been meant by one that does not exist.

/// How alike two names are that may be one, mistyped; 1 is the same.
const ALIKE_MIN: f64 = 0.8;

/// The nearest of these names, if one is near.
pub fn nearest<'a>(mistyped: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mistyped = mistyped.to_lowercase();
    let likeness = |name: &str| strsim::jaro_winkler(&name.to_lowercase(), &mistyped);
    let near = names.into_iter().map(|name| (name, likeness(name))).filter(|(_, likeness)| *likeness >= ALIKE_MIN);
    near.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(name, _)| name)
}

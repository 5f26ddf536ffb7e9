//! The `User-Agent` of requests for a container's start, which Connect keeps with its account of requests.

use reqwest::header::HeaderValue;

/// How this program calls itself.
const USER_AGENT: &str = concat!("oci-secrets/", env!("CARGO_PKG_VERSION"));

/// How the user agents of all versions begin.
pub(super) const PROGRAM: &str = "oci-secrets/";

const START: &str = " (start ";

/// The user agent of commands, which are not part of any start.
pub(super) fn of_commands() -> HeaderValue {
    HeaderValue::from_static(USER_AGENT)
}

/// The user agent for a container's start, which contains the start's id.
pub(super) fn with_start(start: &str) -> HeaderValue {
    HeaderValue::try_from(format!("{USER_AGENT}{START}{start})")).unwrap_or_else(|_| of_commands())
}

/// The id of the container's start that a user agent contains; none if it is not one of ours.
pub(super) fn start(user_agent: &str) -> Option<&str> {
    let (program, start) = user_agent.split_once(START)?;
    program.starts_with(PROGRAM).then_some(())?;
    start.strip_suffix(')')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_the_id_of_the_start() {
        assert_eq!(start(with_start("ab12").to_str().unwrap()), Some("ab12"));
        assert_eq!(with_start("a\nb"), of_commands(), "no start adds a header");
        assert_eq!(start("oci-secrets/1.0"), None);
        assert_eq!(start("curl/8 (start ab12)"), None);
    }
}

//! Connect's own account of what was asked of it: `/v1/activity`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;

use super::{Connect, user_agent};
use crate::retry::Deadline;
use crate::source::SourceError;

/// The number of requests per page: Connect's default.
const PAGE: usize = 50;

/// One request, as Connect saw it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Seen {
    /// Connect's id of the request.
    pub request_id: String,
    /// When it was answered.
    pub timestamp: Timestamp,
    /// `READ`, `CREATE`, `UPDATE` or `DELETE`.
    pub action: String,
    /// `SUCCESS` or `DENY`.
    pub result: String,
    /// Who asked.
    pub actor: Actor,
    /// For what.
    pub resource: Resource,
}

/// Who asked.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Actor {
    /// The id of the token.
    pub jti: String,
    /// What the program calls itself.
    pub user_agent: String,
    /// Where it asked from.
    pub request_ip: String,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resource {
    /// The item, if it was one.
    pub item: Option<Id>,
    /// Its version.
    pub item_version: Option<u64>,
}

/// An id of 1Password's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Id {
    /// 26 characters.
    pub id: String,
}

impl Seen {
    /// Whether a command of ours made it, outside of any container's start. The `User-Agent` is what the client claims.
    pub fn is_of_a_command(&self) -> bool {
        self.actor.user_agent.starts_with(user_agent::PROGRAM) && self.start().is_none()
    }

    /// The container's start that it was made for, if it says so.
    pub fn start(&self) -> Option<&str> {
        user_agent::start(&self.actor.user_agent)
    }
}

impl Connect {
    /// What was asked for since then, newest first.
    ///
    /// # Errors
    /// As for every request: no answer, a refusal, or something that is not Connect's.
    pub async fn activity(&self, since: Timestamp, deadline: Deadline) -> Result<Vec<Seen>, SourceError> {
        let (mut all, mut ids) = (Vec::new(), BTreeSet::new());
        let mut offset = 0;
        loop {
            let page: Vec<Seen> =
                self.read_page(&["activity"], (offset, PAGE), "its account of requests", deadline).await?;
            let is_last = page.len() < PAGE || page.iter().any(|seen| seen.timestamp < since);
            offset += page.len();
            // What is asked for meanwhile moves the rest on, so that the next page may begin with what this one ended with.
            all.extend(page.into_iter().filter(|seen| seen.timestamp >= since && ids.insert(seen.request_id.clone())));
            if is_last {
                return Ok(all);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_start_that_a_request_was_made_for() {
        let start = |user_agent: &str| {
            let actor = Actor { user_agent: user_agent.to_owned(), ..Actor::default() };
            Seen { actor, ..Seen::default() }.start().map(str::to_owned)
        };
        assert_eq!(start(user_agent::with_start("ab12").to_str().unwrap()), Some("ab12".to_owned()));
        assert_eq!(start("oci-secrets/1.0"), None);
        assert_eq!(start("curl/8 (start ab12)"), None);
    }
}

//! The keys of our annotations: which are ours, and what each stands for.

use super::{FileName, FileNameError};

/// How similar a key must be to one of ours to be suggested, from 0 to 1.
const SIMILARITY_MIN: f64 = 0.8;

/// The key that names the files' owner.
pub(super) const OWNER: &str = "run.secrets.owner";
/// The key that names the files which may be missing.
pub(super) const OPTIONAL: &str = "run.secrets.optional";

/// The key that says whether the files follow changes while the container runs.
pub(super) const UPDATE: &str = "run.secrets.update";
/// The key that names what happens after an update.
pub(super) const ON_UPDATE: &str = "run.secrets.on-update";

/// The key that says when the files are removed while the container runs.
pub(super) const WITHDRAW: &str = "run.secrets.withdraw";

/// All keys without a file.
const RULES: [&str; 5] = [OWNER, OPTIONAL, UPDATE, ON_UPDATE, WITHDRAW];

const DOMAIN: &str = "run.secrets";
const CONTAINER_NAME_BYTES_MAX: usize = 63;

/// What a key under `run.secrets` stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key<'a> {
    /// `run.secrets.owner`
    Owner,
    /// `run.secrets.optional`
    Optional,
    /// `run.secrets.update`
    Update,
    /// `run.secrets.on-update`
    OnUpdate,
    /// `run.secrets.withdraw`
    Withdraw,
    /// `[<container>.]run.secrets/<file>`
    File { container: Option<&'a str>, file: FileName },
}

impl<'a> Key<'a> {
    /// Reads an annotation's key; `None` if it is not ours.
    pub(super) fn parse(key: &'a str) -> Result<Option<Key<'a>>, KeyError> {
        if !is_ours(key) {
            return Ok(None);
        }
        let (domain, file) = match key {
            OWNER => return Ok(Some(Key::Owner)),
            OPTIONAL => return Ok(Some(Key::Optional)),
            UPDATE => return Ok(Some(Key::Update)),
            ON_UPDATE => return Ok(Some(Key::OnUpdate)),
            WITHDRAW => return Ok(Some(Key::Withdraw)),
            _ => key.split_once('/').ok_or(KeyError::Unknown)?,
        };
        let container = match domain.strip_suffix(DOMAIN).ok_or(KeyError::Unknown)? {
            "" => None,
            prefix => Some(container_name(prefix).ok_or(KeyError::Unknown)?),
        };
        let file = file.parse()?;
        Ok(Some(Key::File { container, file }))
    }
}

/// The valid key that is nearest to one that is not.
pub(super) fn nearest(key: &str) -> Option<String> {
    let likeness = |one: &str, other: &str| strsim::jaro_winkler(&one.to_ascii_lowercase(), other);
    let similar = |one: &str, other: &str| likeness(one, other) >= SIMILARITY_MIN;
    let Some((domain, file)) = key.rsplit_once('/') else {
        let mut rules = RULES.into_iter();
        let last = key.rsplit('.').next().unwrap_or_default();
        return match rules.find(|rule| similar(key, rule) && likeness(key, rule) > likeness(key, DOMAIN)) {
            Some(rule) => Some(rule.to_owned()),
            None if similar(key, DOMAIN) => Some(format!("{DOMAIN}/<file>")),
            None => last.parse().ok().map(|file: FileName| format!("{DOMAIN}/{file}")),
        };
    };
    let file: FileName = file.trim().parse().ok()?;
    let is_domain = |rest: &str| similar(rest, DOMAIN) && likeness(rest, DOMAIN) > likeness(domain, DOMAIN);
    let prefix = domain.trim().split_once('.').filter(|(_, rest)| is_domain(rest));
    let container = prefix.map(|(name, _)| format!("{}.", name.to_ascii_lowercase()));
    let container = container.filter(|name| container_name(name).is_some()).unwrap_or_default();
    Some(format!("{container}{DOMAIN}/{file}"))
}

/// Whether a key's domain, the part before `/`, has the labels `run` and `secrets` in a row, in any case.
pub fn is_ours(key: &str) -> bool {
    let domain = key.split('/').next().unwrap_or_default();
    let labels: Vec<String> = domain.split('.').map(|label| label.trim().to_ascii_lowercase()).collect();
    labels.windows(2).any(|pair| pair == ["run", "secrets"])
}

/// The name before the dot, if Kubernetes would let a container have it: a DNS label (RFC 1123).
fn container_name(prefix: &str) -> Option<&str> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let name = prefix.strip_suffix('.')?;
    let valid = (1..=CONTAINER_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-');
    valid.then_some(name)
}

/// Why a key under `run.secrets` cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not in the table: a typo, or a key of a later version.
    #[error(
        "expected run.secrets/<file>, <container>.run.secrets/<file>, {OWNER}, {OPTIONAL}, {UPDATE}, {ON_UPDATE} or {WITHDRAW}"
    )]
    Unknown,
    /// Its last part cannot name a file.
    #[error(transparent)]
    FileName(#[from] FileNameError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own() {
        let file: FileName = "db".parse().unwrap();
        let general = Key::File { container: None, file: file.clone() };
        let specific = Key::File { container: Some("my-app"), file };
        assert_eq!(Key::parse("run.secrets/db"), Ok(Some(general)));
        assert_eq!(Key::parse("my-app.run.secrets/db"), Ok(Some(specific)));
        assert_eq!(Key::parse("run.secrets.owner"), Ok(Some(Key::Owner)));
        assert_eq!(Key::parse("run.secrets.optional"), Ok(Some(Key::Optional)));
    }

    #[test]
    fn leaves_the_keys_of_others_alone() {
        for key in ["run.secretsx/a", "run.secret/a", "xrun.secrets/a", "example.com/run.secrets", "", "run/secrets"] {
            assert_eq!(Key::parse(key), Ok(None), "{key}");
        }
    }

    #[test]
    fn refuses_every_other_key_under_run_secrets() {
        let keys = [
            "run.secrets",
            "Run.Secrets/x",
            "run.secrets.ownr",
            "run.secrets.Owner",
            "x.run.secrets.owner",
            "x.run.secrets",
            "a.b.run.secrets/x",
            "App.run.secrets/x",
            "-a.run.secrets/x",
            ".run.secrets/x",
            "run.secrets.owner/x",
            "run.secrets.example/x",
            " run.secrets/x",
            "run.secrets /x",
        ];
        for key in keys {
            assert_eq!(Key::parse(key), Err(KeyError::Unknown), "{key}");
        }
    }

    #[test]
    fn suggests_the_nearest_valid_key() {
        for (key, expected) in [
            ("run.secret/a", "run.secrets/a"),
            ("run-secrets/a", "run.secrets/a"),
            ("runsecrets/a", "run.secrets/a"),
            ("Run.Secrets/x", "run.secrets/x"),
            ("secrets/a", "run.secrets/a"),
            ("example.com/db", "run.secrets/db"),
            ("app.run.secret/a", "app.run.secrets/a"),
            ("App.run.secrets/a", "app.run.secrets/a"),
            ("run.secrets.ownr", "run.secrets.owner"),
            ("run.secrets.optinal", "run.secrets.optional"),
            ("run.secrets", "run.secrets/<file>"),
            ("db", "run.secrets/db"),
            ("com.example.db", "run.secrets/db"),
        ] {
            assert_eq!(nearest(key).as_deref(), Some(expected), "{key}");
        }
        assert_eq!(nearest("run.secret/-"), None);
    }

    #[test]
    fn refuses_a_key_that_names_no_file() {
        for key in ["run.secrets/", "run.secrets/..", "app.run.secrets/a/b"] {
            assert_eq!(Key::parse(key), Err(KeyError::FileName(FileNameError)), "{key}");
        }
    }
}

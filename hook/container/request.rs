//! Requests: the annotations that ask for secrets.
//!
//! ```text
//! run.secrets/<file>              a reference, or a template with references: becomes /run/secrets/<file>
//! <container>.run.secrets/<file>  the same for one container of a pod; it beats the general key
//! run.secrets.owner               uid:gid in the container
//! run.secrets.optional            file names, separated by commas
//! run.secrets.update              live: the files follow changes while the container runs
//! run.secrets.on-update           signal:HUP: the signal that its first process gets after an update
//! run.secrets.withdraw            60s: how long after the start the files are removed
//! ```
//!
//! Any other key under `run.secrets` is an error, in whatever case it is spelled, and so is a reference under any other key: a
//! typo must not start a container without its secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use super::annotations::CONTAINER_NAME_KEYS;
use super::key::{self, Key, KeyError, ON_UPDATE, OPTIONAL, OWNER, UPDATE, WITHDRAW};
use super::misplaced::is_reference;
use super::update::{Update, UpdateError};
use super::{Annotations, Contradiction, FileName, withdraw};
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};
use crate::reference::{Reference, ReferenceError};
use crate::template::{Template, TemplateError};

/// The most files that one container may request.
pub const FILES_MAX: usize = 1024;

/// Everything that one container asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Requests {
    /// What the files need, sorted by name: one reference for a file, or each of its template; at least one and at most [`FILES_MAX`].
    pub files: Vec<Request>,
    /// The templates of files that are not the value of one reference.
    pub templates: BTreeMap<FileName, Template>,
    /// Their owner, instead of the spec's `process.user`.
    pub owner: Option<Owner>,
    /// How the files follow changes while the container runs, if they do.
    pub update: Option<Update>,
    /// How long after the start the files are removed, if they are.
    pub withdraw: Option<Duration>,
}

/// One file and where its content, or a part of it, comes from.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// Its name in `/run/secrets`.
    pub file: FileName,
    /// The reference to its content.
    pub reference: Reference,
    /// Whether the container starts without it if the item or field does not exist.
    pub optional: bool,
}

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
}

impl Requests {
    /// Collects what the annotations ask for; `None` if there is nothing for this container.
    ///
    /// Keys for other containers of the pod are held to the same form and then left alone.
    ///
    /// # Errors
    /// When a key or value under `run.secrets` is not what the module's table says, or when another key has a reference.
    pub fn from_annotations(annotations: &Annotations) -> Result<Option<Requests>, RequestError> {
        let mut draft = Draft::default();
        for (key, value) in annotations.values() {
            let key_error = |source| RequestError::Key { key: key.clone(), source };
            match Key::parse(key).map_err(key_error)? {
                None if is_reference(value) => return Err(RequestError::Misplaced { key: key.clone() }),
                None => {}
                Some(Key::Owner) => draft.owner = Some(value.parse()?),
                Some(Key::Optional) => draft.optional = Some(value),
                Some(Key::Update) => draft.update = Some(value),
                Some(Key::OnUpdate) => draft.on_update = Some(value),
                Some(Key::Withdraw) => draft.withdraw = Some(value),
                Some(Key::File { container, file }) => {
                    let content = FileContent::parse(key, value)?;
                    draft.named.insert(file.clone());
                    let this_container = container.map_or(Ok(None), |_| annotations.container_name())?;
                    let files = match (container, this_container) {
                        (None, _) => &mut draft.general,
                        (Some(name), Some(this)) if name == this => &mut draft.specific,
                        (Some(_), Some(_)) => continue,
                        (Some(_), None) => return Err(RequestError::NoContainerName { key: key.clone() }),
                    };
                    files.insert(file, content);
                }
            }
        }
        draft.finish()
    }
}

/// Refuses references in annotations that are not ours.
///
/// # Errors
/// At the first one.
pub fn refuse_misplaced(annotations: &Annotations) -> Result<(), RequestError> {
    let mut others = annotations.values().iter().filter(|(key, value)| !key::is_ours(key) && is_reference(value));
    others.next().map_or(Ok(()), |(key, _)| Err(RequestError::Misplaced { key: key.clone() }))
}

/// What a file is made of.
#[derive(Debug)]
enum FileContent {
    Reference(Reference),
    Template(Template),
}

impl FileContent {
    fn parse(key: &str, value: &str) -> Result<FileContent, RequestError> {
        let key = || key.to_owned();
        if Template::is_template(value) {
            let template = value.parse().map_err(|source| RequestError::Template { key: key(), source })?;
            return Ok(FileContent::Template(template));
        }
        let reference = value.parse().map_err(|source| RequestError::Reference { key: key(), source })?;
        Ok(FileContent::Reference(reference))
    }
}

/// The annotations of a pod, sorted by what they say.
#[derive(Default)]
struct Draft<'a> {
    general: BTreeMap<FileName, FileContent>,
    specific: BTreeMap<FileName, FileContent>,
    /// Every file that any container of the pod requests: `optional` speaks to all of them.
    named: BTreeSet<FileName>,
    owner: Option<Owner>,
    optional: Option<&'a str>,
    update: Option<&'a str>,
    on_update: Option<&'a str>,
    withdraw: Option<&'a str>,
}

impl Draft<'_> {
    fn finish(self) -> Result<Option<Requests>, RequestError> {
        if self.named.is_empty() {
            let rules = [
                (OWNER, self.owner.is_some()),
                (OPTIONAL, self.optional.is_some()),
                (UPDATE, self.update.is_some()),
                (ON_UPDATE, self.on_update.is_some()),
                (WITHDRAW, self.withdraw.is_some()),
            ];
            let rule = rules.into_iter().find(|(_, is_there)| *is_there);
            return rule.map_or(Ok(None), |(key, _)| Err(RequestError::NoFiles { key }));
        }
        let update = Update::parse(self.update, self.on_update)?;
        let withdraw = self
            .withdraw
            .map(|text| withdraw::parse(text).ok_or_else(|| RequestError::Withdraw { value: text.to_owned() }));
        let withdraw = withdraw.transpose()?;
        let optional = self.optional_files()?;
        let mut chosen = self.general;
        chosen.extend(self.specific);
        let (mut files, mut templates) = (Vec::new(), BTreeMap::new());
        for (file, content) in chosen {
            let optional = optional.contains(&file);
            let request =
                |reference: &Reference| Request { file: file.clone(), reference: reference.clone(), optional };
            match content {
                FileContent::Reference(reference) => files.push(request(&reference)),
                FileContent::Template(template) => {
                    files.extend(template.references().into_iter().map(request));
                    templates.insert(file, template);
                }
            }
        }
        if files.len() > FILES_MAX {
            return Err(RequestError::TooManyFiles { found: files.len() });
        }
        Ok((!files.is_empty()).then_some(Requests { files, templates, owner: self.owner, update, withdraw }))
    }

    fn optional_files(&self) -> Result<BTreeSet<FileName>, RequestError> {
        let requested = |name: &str| {
            let file = name.trim_matches(' ').parse().ok();
            file.filter(|file| self.named.contains(file))
                .ok_or_else(|| RequestError::Optional { name: name.to_owned() })
        };
        self.optional.into_iter().flat_map(|names| names.split(',')).map(requested).collect()
    }
}

impl FromStr for Owner {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Owner, RequestError> {
        let id = |digits: &str| {
            let decimal = digits.bytes().all(|b| b.is_ascii_digit());
            // The highest number means "no change" to chown(2).
            digits.parse().ok().filter(|id| decimal && *id != u32::MAX)
        };
        text.split_once(':')
            .and_then(|(uid, gid)| Some(Owner { uid: id(uid)?, gid: id(gid)? }))
            .ok_or_else(|| RequestError::Owner { value: text.to_owned() })
    }
}

/// Why annotations cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum RequestError {
    /// A key under `run.secrets` that is none of ours.
    #[error("cannot use annotation {}", Excerpt(.key))]
    Key { key: String, source: KeyError },
    /// A reference under a key that is not ours.
    #[error("refusing to ignore the reference in annotation {}: it is not a key of ours", Excerpt(.key))]
    Misplaced { key: String },
    /// Annotations that name several containers.
    #[error(transparent)]
    Container(#[from] Contradiction),
    /// A value that is not a reference.
    #[error("cannot use annotation {}", Excerpt(.key))]
    Reference { key: String, source: ReferenceError },
    /// A value that is not a template.
    #[error("cannot use annotation {}", Excerpt(.key))]
    Template { key: String, source: TemplateError },
    /// A key for one container, from an engine that does not say which container this is.
    #[error(
        "cannot use annotation {}: no annotation says which container this is ({} or {})",
        Excerpt(.key), CONTAINER_NAME_KEYS[0], CONTAINER_NAME_KEYS[1]
    )]
    NoContainerName { key: String },
    /// An owner that is not two ids.
    #[error("cannot use annotation \"{OWNER}\": expected uid:gid in decimal, found {}", Excerpt(.value))]
    Owner { value: String },
    /// How the files follow changes.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// When the files are removed.
    #[error("cannot use annotation \"{WITHDRAW}\": expected a duration from 1s to 168h, found {}", Excerpt(.value))]
    Withdraw { value: String },
    /// An optional file that nothing requests.
    #[error("cannot use annotation \"{OPTIONAL}\": {} is not a requested file", Excerpt(.name))]
    Optional { name: String },
    /// An owner or a list of optional files, but no files.
    #[error("cannot use annotation \"{key}\": no file is requested")]
    NoFiles { key: &'static str },
    /// More files than anyone needs.
    #[error("cannot use annotations: {found} references are requested, at most {FILES_MAX} are allowed")]
    TooManyFiles { found: usize },
}

impl Fault for RequestError {
    fn class(&self) -> Class {
        match self {
            RequestError::Container(_) => Class::NotPermitted,
            _ => Class::Data,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            RequestError::Key { key, source: KeyError::Unknown } | RequestError::Misplaced { key } => {
                key::nearest(key).map(|key| format!("the nearest valid key is {key}"))
            }
            RequestError::Reference { source, .. } => source.hint().map(str::to_owned),
            RequestError::Template { source, .. } => source.hint(),
            _ => None,
        }
    }

    fn is_for_users(&self) -> bool {
        true
    }
}

impl RequestError {
    /// The annotation that is wrong, if it is one alone.
    pub fn key(&self) -> Option<&str> {
        match self {
            RequestError::Key { key, .. }
            | RequestError::Reference { key, .. }
            | RequestError::Template { key, .. } => Some(key),
            RequestError::NoContainerName { key } | RequestError::Misplaced { key } => Some(key),
            RequestError::Container(_) => None,
            RequestError::Owner { .. } => Some(OWNER),
            RequestError::Optional { .. } => Some(OPTIONAL),
            RequestError::Update(error) => Some(error.key()),
            RequestError::Withdraw { .. } => Some(WITHDRAW),
            RequestError::NoFiles { key } => Some(key),
            RequestError::TooManyFiles { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: (&str, &str) = ("io.kubernetes.cri.container-name", "app");

    fn requests(annotations: &[(&str, &str)]) -> Result<Option<Requests>, RequestError> {
        let owned = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Requests::from_annotations(&Annotations::new(owned.collect()))
    }

    fn files(annotations: &[(&str, &str)]) -> Vec<(String, String, bool)> {
        let files = requests(annotations).unwrap().unwrap().files;
        files.iter().map(|r| (r.file.to_string(), r.reference.to_string(), r.optional)).collect()
    }

    fn refusal(annotations: &[(&str, &str)]) -> RequestError {
        requests(annotations).unwrap_err()
    }

    #[test]
    fn collects_files_sorted_by_name() {
        let found = files(&[
            ("run.secrets/z.pem", "op://v/i/z"),
            ("run.secrets/a_1", "op://v/i/a"),
            ("run.secrets.optional", "a_1, z.pem"),
            ("other/run.secrets", "x"),
        ]);
        let file = |name: &str, reference: &str| (name.to_owned(), reference.to_owned(), true);
        assert_eq!(found, [file("a_1", "op://v/i/a"), file("z.pem", "op://v/i/z")]);
    }

    #[test]
    fn asks_for_nothing_without_annotations_of_ours() {
        assert_eq!(requests(&[]), Ok(None));
        assert_eq!(requests(&[POD, ("run.secretsx/a", "v/i/f")]), Ok(None));
    }

    #[test]
    fn refuses_a_key_of_no_use_even_when_others_are_fine() {
        let error = refusal(&[("run.secrets/a", "op://v/i/f"), ("run.secrets.ownr", "1:1")]);
        let key = "run.secrets.ownr".to_owned();
        assert_eq!(error, RequestError::Key { key, source: KeyError::Unknown });
    }

    #[test]
    fn refuses_a_reference_under_another_key() {
        for (key, value) in [
            ("run.secret/a", "op://v/i/f"),
            ("run-secrets/a", "op://v/i/f"),
            ("db", " OP://v"),
            ("example.com/db", "op://%"),
        ] {
            assert_eq!(refusal(&[(key, value)]), RequestError::Misplaced { key: key.to_owned() });
            let annotations = Annotations::new([(key.to_owned(), value.to_owned())].into());
            assert!(refuse_misplaced(&annotations).is_err());
        }
        let template = Annotations::new([("db".to_owned(), "password={{ op://v/i/f }}".to_owned())].into());
        assert!(refuse_misplaced(&template).is_err());
        for value in ["", "op:/", "see op://v/i/f", "ööööö", "{{ .Values }}"] {
            assert_eq!(requests(&[("other", value)]), Ok(None), "{value}");
        }
        let ours = Annotations::new([("run.secrets/a".to_owned(), "op://v/i/f".to_owned())].into());
        assert_eq!(refuse_misplaced(&ours), Ok(()));
    }

    #[test]
    fn a_template_requests_each_of_its_references() {
        let pgpass = ("run.secrets/pgpass", "db:*:*:{{ op://v/db/user }}:{{ op://v/db/pw }} # op://v/db/user");
        let optional = ("run.secrets.optional", "pgpass");
        let found = requests(&[pgpass, ("run.secrets/x", "op://v/i/x"), optional]).unwrap().unwrap();
        let files: Vec<_> = found.files.iter().map(|r| (r.file.as_str(), r.reference.field(), r.optional)).collect();
        assert_eq!(files, [("pgpass", "user", true), ("pgpass", "pw", true), ("x", "x", false)]);
        assert_eq!(found.templates.len(), 1);
        for value in ["{{ op://v/db }}", "{{ .x }}", "{{", "op://v/{{x}}/f"] {
            assert!(matches!(refusal(&[("run.secrets/a", value)]), RequestError::Template { .. }), "{value}");
        }
        // Without braces it is a reference, as ever.
        for value in [" op://v/i/f", "user:op://v/i/f"] {
            assert!(matches!(refusal(&[("run.secrets/a", value)]), RequestError::Reference { .. }), "{value}");
        }
    }

    #[test]
    fn a_containers_own_key_beats_the_general_one() {
        let own = ("app.run.secrets/db", "op://v/own/f");
        let general = ("run.secrets/db", "op://v/general/f");
        let others = ("zoo.run.secrets/db", "op://v/other/f");
        let db = |reference: &str| vec![("db".to_owned(), reference.to_owned(), false)];
        assert_eq!(files(&[POD, own, general, others]), db("op://v/own/f"));
        assert_eq!(files(&[POD, general, others]), db("op://v/general/f"));
        let crio = [("io.container.manager", "cri-o"), ("io.kubernetes.cri-o.ContainerType", "container")];
        let zoo = ("io.kubernetes.container.name", "zoo");
        assert_eq!(files(&[crio[0], crio[1], zoo, own, general, others]), db("op://v/other/f"));
        // A name that the engine at hand does not set.
        assert!(matches!(refusal(&[crio[0], crio[1], zoo, POD, own]), RequestError::Container(_)));
    }

    #[test]
    fn leaves_keys_for_other_containers_alone_after_checking_their_form() {
        let other = ("web.run.secrets/db", "op://v/i/f");
        assert_eq!(requests(&[POD, other]), Ok(None));
        let rest = [("run.secrets.owner", "1:1"), ("run.secrets.optional", "db")];
        assert_eq!(requests(&[POD, other, rest[0], rest[1]]), Ok(None));
        assert!(matches!(refusal(&[POD, ("web.run.secrets/db", "v/i/f")]), RequestError::Reference { .. }));
        assert!(matches!(refusal(&[POD, ("web.run.secrets/-", "op://v/i/f")]), RequestError::Key { .. }));
    }

    #[test]
    fn refuses_a_key_for_one_container_when_the_engine_names_none() {
        let error = refusal(&[("app.run.secrets/db", "op://v/i/f")]);
        assert_eq!(
            error.to_string(),
            "cannot use annotation \"app.run.secrets/db\": no annotation says which container this is \
             (io.kubernetes.cri.container-name or io.kubernetes.container.name)"
        );
    }

    #[test]
    fn reads_an_owner() {
        let with = |value: &str| requests(&[("run.secrets/a", "op://v/i/f"), ("run.secrets.owner", value)]);
        let owner = Some(Owner { uid: 1000, gid: 0 });
        assert_eq!(with("1000:0").unwrap().unwrap().owner, owner);
        let signs = ["", "1000", "1000:", ":1", "+1:1", "-1:1", "0x1:1", " 1:1", "a:b", "1:1:1"];
        let numbers = ["4294967295:0", "0:4294967296"];
        for value in signs.into_iter().chain(numbers) {
            let expected = RequestError::Owner { value: value.to_owned() };
            assert_eq!(with(value), Err(expected), "{value}");
        }
    }

    #[test]
    fn reads_when_files_are_removed() {
        let with = |value: &str| requests(&[("run.secrets/a", "op://v/i/f"), ("run.secrets.withdraw", value)]);
        assert_eq!(with("60s").unwrap().unwrap().withdraw, Some(Duration::from_secs(60)));
        assert_eq!(with("60"), Err(RequestError::Withdraw { value: "60".to_owned() }));
        assert_eq!(refusal(&[("run.secrets.withdraw", "60s")]), RequestError::NoFiles { key: WITHDRAW });
    }

    #[test]
    fn refuses_optional_files_that_nothing_requests() {
        for (value, name) in [("b", "b"), ("a,", ""), ("", ""), ("a;b", "a;b")] {
            let error = refusal(&[("run.secrets/a", "op://v/i/f"), ("run.secrets.optional", value)]);
            assert_eq!(error, RequestError::Optional { name: name.to_owned() });
        }
    }

    #[test]
    fn refuses_rules_without_files() {
        assert_eq!(refusal(&[("run.secrets.owner", "1:1")]), RequestError::NoFiles { key: OWNER });
        assert_eq!(refusal(&[("run.secrets.optional", "a")]), RequestError::NoFiles { key: OPTIONAL });
    }

    #[test]
    fn refuses_more_files_than_anyone_needs() {
        let many = |count: usize| {
            Annotations::new((0..count).map(|i| (format!("run.secrets/{i}"), "op://v/i/f".to_owned())).collect())
        };
        assert!(Requests::from_annotations(&many(FILES_MAX)).is_ok());
        let refusal = Requests::from_annotations(&many(FILES_MAX + 1)).unwrap_err();
        assert_eq!(refusal, RequestError::TooManyFiles { found: FILES_MAX + 1 });
    }
}

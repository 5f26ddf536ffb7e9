//! The messages between the hook and the broker. `packaging/docs/broker.md` documents it for others.
//!
//! ```text
//! hook    ─► request: what the annotations are, which the broker begins to resolve
//! hook    ─► what it has found of the container, with the pidfd of its process
//!         ◄─ answer, with the mount of the delivery, or why there is none
//! hook    ─► report: attached, or why not
//!         ◄─ receipt: the record is written, or why not
//! ```

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::live::summary::Summary;
use super::revoked::{Revocation, Revoked};
use super::source::Snapshot;
use crate::container::{Annotations, FileName, Owner, Pod};
use crate::deliver::{Placeholders, PlaceholdersError};
use crate::fault::{AnyFault, Class, Fault};
use crate::nri;
use crate::report;

/// Where the broker listens, unless systemd, the command line or the settings say otherwise.
pub const SOCKET: &str = "/run/oci-secrets/broker.sock";

/// The version of the protocol.
pub const VERSION: u8 = 1;

/// The largest request, in bytes. A state has at most 4 MiB, nearly all of which can be annotations.
pub const REQUEST_BYTES_MAX: usize = 6 << 20;

/// The largest request of a user other than root, in bytes.
pub const USER_REQUEST_BYTES_MAX: usize = 512 << 10;

/// The largest of the other messages, in bytes: the names of 1,024 files, the places of 128 mounts, or a reason.
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// The most running containers in an answer, each of which takes less than a KiB.
pub const RUNNING_MAX: usize = 200;

/// The length of a start's id.
const START_DIGITS: usize = 16;

/// The longest text of a reason, in bytes.
const REASON_BYTES_MAX: usize = 4096;

/// What is requested of the broker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A delivery for a container that is being created.
    Start(Box<StartRequest>),
    /// The state of the broker, for root alone.
    Status,
    /// That it forgets all values that it keeps, for root alone. The answer is that there is nothing.
    Forget,
    /// The running containers that the broker updates, for root alone.
    Running(Selection),
    /// The same of those that follow changes, after an update of each.
    Refresh(Selection),
    /// What is revoked, for root alone.
    Revocations,
    /// That something is revoked, and removed from running containers, for root alone.
    Revoke(Order),
    /// That something is allowed again, for root alone.
    EndRevocation(Order),
    /// The pod of a container, for root alone.
    Pod {
        /// The container's id.
        container: String,
    },
}

/// What an operator revokes, or allows again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Order {
    /// What it is about. The id of a container may be the beginning of it.
    pub revoked: Revoked,
    /// Why; needed for a revocation.
    pub reason: Option<String>,
    /// The login uid of the operator, if there was a login.
    pub login_uid: Option<u32>,
}

/// Whether a text has the form of a start's id.
pub fn is_start_id(text: &str) -> bool {
    text.len() == START_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A choice of running containers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// The beginning of the container's id; any, if absent.
    pub container: Option<String>,
    /// A reference that it requests; any, if absent.
    pub reference: Option<String>,
    /// Whether only those are chosen that follow changes.
    #[serde(default)]
    pub live: bool,
}

/// A container that is being created, and requests secrets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StartRequest {
    /// A random id of the start.
    pub start: String,
    /// The container's id.
    pub container: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Those of its image.
    pub image: Image,
    /// Why its state cannot be used, whatever the broker decides.
    pub unusable: Option<Refusal>,
    /// How long the hook waits.
    pub milliseconds: u64,
}

/// What the hook has found of the container, while the broker resolved.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Found {
    /// A container; the pidfd of its process comes with it.
    Container {
        /// The user of its process, in its own ids.
        user: Option<Ids>,
        /// The SELinux context of its filesystems.
        label: Option<String>,
        /// The places that the delivery must have for what is carried over.
        places: Vec<Place>,
    },
    /// It cannot have a delivery.
    Refused(Refusal),
}

/// The annotations of an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Image {
    /// They are these.
    Annotations(BTreeMap<String, String>),
    /// They are not known.
    Unknown(Refusal),
}

impl Image {
    /// A container's annotations, with those of its image, or with the reason why these are not known.
    pub fn of(self, annotations: BTreeMap<String, String>) -> (Annotations, Option<AnyFault>) {
        let annotations = Annotations::new(annotations);
        match self {
            Image::Annotations(image) => (annotations.with_image(image), None),
            Image::Unknown(refusal) => (annotations, Some(refusal.into())),
        }
    }
}

/// A user and a group.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ids {
    uid: u32,
    gid: u32,
}

impl From<Owner> for Ids {
    fn from(Owner { uid, gid }: Owner) -> Ids {
        Ids { uid, gid }
    }
}

impl From<Ids> for Owner {
    fn from(Ids { uid, gid }: Ids) -> Owner {
        Owner { uid, gid }
    }
}

/// A file or directory of the delivery that something of the container's own will cover.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Its path below `/run/secrets`: any bytes, in base64.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    path: PathBuf,
    directory: bool,
}

impl Place {
    /// All places of a delivery.
    pub fn all(placeholders: &Placeholders) -> Vec<Place> {
        placeholders.iter().map(|(path, directory)| Place { path: path.to_owned(), directory }).collect()
    }

    /// The places of a delivery.
    ///
    /// # Errors
    /// No container has such places.
    pub fn placeholders(places: Vec<Place>) -> Result<Placeholders, PlaceholdersError> {
        Placeholders::received(places.into_iter().map(|Place { path, directory }| (path, directory)))
    }
}

fn to_base64<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(path.as_os_str().as_bytes()))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = BASE64_STANDARD.decode(text).map_err(|_| D::Error::custom("expected base64"))?;
    Ok(std::ffi::OsString::from_vec(bytes).into())
}

/// The answer to a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// A delivery with these files; its mount comes with the answer.
    Delivery {
        /// The names of the files.
        files: Vec<String>,
    },
    /// The annotations request nothing for this container.
    Nothing,
    /// There is none.
    Refused(Refusal),
    /// The state of the broker.
    Status(Box<Status>),
    /// Running containers, at most [`RUNNING_MAX`], and how many there are.
    Running {
        /// Each of them.
        containers: Vec<Summary>,
        /// Their number.
        count: usize,
    },
    /// What is revoked, at most [`RUNNING_MAX`] of it, and how much there is.
    Revocations {
        /// Each of them.
        revocations: Vec<Revocation>,
        /// Their number.
        count: usize,
    },
    /// What became of a revocation.
    Withdrawn(Box<Withdrawn>),
    /// The pod of a container.
    Pod {
        /// What is known of it.
        pod: Option<Box<Pod>>,
        /// Why not more is known.
        unknown: Option<Refusal>,
    },
}

/// What became of a revocation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawn {
    /// The revocation.
    pub revocation: Revocation,
    /// The containers that had its files, those first which still have them: at most [`RUNNING_MAX`].
    pub containers: Vec<Withdrawal>,
    /// Their number.
    pub count: usize,
    /// How many of them have files that could not be removed.
    pub failed: usize,
    /// Why there is no record of it, if there is none.
    pub unrecorded: Option<String>,
}

/// A running container whose files were to be removed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawal {
    /// Its id.
    pub container: String,
    /// How many files that are.
    pub files: usize,
    /// Why they are still there, or why there is no record of it.
    pub error: Option<String>,
}

/// The state of the broker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Its release.
    pub version: String,
    /// Its settings file.
    pub settings: PathBuf,
    /// How many grants that has.
    pub grants: usize,
    /// How many connections are open, this one included.
    pub connections: u32,
    /// The source, once a start has needed it.
    pub source: Option<Snapshot>,
    /// The NRI plugin, if the settings have one.
    pub nri: Option<nri::Snapshot>,
}

/// What became of a delivery.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Report {
    /// It is attached.
    Attached,
    /// It is not.
    Refused(Refusal),
}

/// The end of a start.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Receipt {
    /// The record is written.
    Recorded,
    /// The start is refused.
    Refused(Refusal),
}

/// An error as the hook reports it: its exit code, its message and its hint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    #[serde(serialize_with = "to_code", deserialize_with = "from_code")]
    code: Class,
    message: String,
    hint: Option<String>,
}

impl Refusal {
    /// An error with its causes.
    pub fn of(error: &dyn Fault) -> Refusal {
        let cut = |mut text: String| {
            text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
            text
        };
        Refusal { code: error.class(), message: cut(report::chain(error)), hint: error.hint().map(cut) }
    }
}

impl Fault for Refusal {
    fn class(&self) -> Class {
        self.code
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }

    fn is_for_users(&self) -> bool {
        // A user's hook has sent it.
        true
    }
}

fn to_code<S: Serializer>(class: &Class, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(*class as u8)
}

fn from_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Class, D::Error> {
    Class::of_code(u8::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("expected an exit code"))
}

/// The names of the files in a delivery.
pub fn file_names(names: &[String]) -> Option<Vec<FileName>> {
    names.iter().map(|name| name.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_any_bytes_arrives() {
        let path = PathBuf::from(std::ffi::OsString::from_vec(b"a\xff\n".to_vec()));
        let sent = serde_json::to_string(&Place { path: path.clone(), directory: true }).unwrap();
        assert_eq!(serde_json::from_str::<Place>(&sent).unwrap().path, path);
    }

    #[test]
    fn a_refusal_keeps_code_message_and_hint() {
        let refusal = Refusal::of(&PlaceholdersError);
        let sent = serde_json::to_string(&refusal).unwrap();
        assert_eq!(serde_json::from_str::<Refusal>(&sent).unwrap(), refusal);
        assert!(serde_json::from_str::<Refusal>(&sent.replace("65", "66")).is_ok());
        for wrong in ["0", "1", "300"] {
            assert!(serde_json::from_str::<Refusal>(&sent.replace("65", wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn unknown_members_are_refused() {
        for message in [r#"{"start":{"x":1}}"#, r#"{"stop":{}}"#, r#""start""#] {
            assert!(crate::json::from_str::<Request>(message).is_err(), "{message}");
        }
        assert!(crate::json::from_str::<Receipt>(r#""recorded""#).is_ok());
    }
}

//! `oci-secrets break-glass seal`: writes secrets to a sealed file, which is kept offline.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp};

use super::duration::duration;
use super::expand;
use super::identity::Terminal;
use super::sealed_file::describe;
use crate::break_glass::channel::host_name;
use crate::break_glass::file::{Header, Recipient, SealedFile, seal};
use crate::break_glass::{BreakGlassError, Kept};
use crate::cli::request::request;
use crate::cli::{block_on, write_output};
use crate::container::{FILES_MAX, Request};
use crate::fault::AnyFault;
use crate::resolve::{Resolved, resolve};
use crate::retry::Deadline;
use crate::seal::kek::Keks;
use crate::secret::Secret;
use crate::settings::Settings;
use crate::source::connect::Connect;
use crate::whole_file::{self, Existing};

/// The longest validity of a file, in hours and as it is written.
const EXPIRES_HOURS_MAX: i64 = 366 * 24;
const EXPIRES_MAX: &str = "366d";

const EXAMPLE: &str = "\
Example: the secrets of a grant, for one operator

  oci-secrets break-glass seal --grants agents --recipient age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa --out agents.sealed";

/// Write secrets to a sealed file for an outage.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(in crate::cli) struct Arguments {
    /// The secrets of these grants in the settings; patterns are looked up in 1Password.
    #[arg(long, value_name = "NAME", num_args = 1.., required_unless_present = "references")]
    grants: Vec<String>,
    /// A file of references, one on each line.
    #[arg(long, value_name = "FILE")]
    references: Option<PathBuf>,
    /// A recipient: age1…, or a line of an SSH public key file; can be repeated.
    #[arg(long = "recipient", value_name = "KEY", required = true)]
    recipients: Vec<String>,
    /// The number of recipients that must open it together; by default, each can open it alone.
    #[arg(long, value_name = "K")]
    threshold: Option<u8>,
    /// A host that may open it, by `uname -n`, or '*'; by default this one.
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// How long it is valid.
    #[arg(long, value_name = "DURATION", default_value = "90d")]
    expires_in: String,
    /// The file to write; it must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(arguments: &Arguments, settings: &Settings) -> Result<ExitCode, AnyFault> {
    let recipients = recipients(&arguments.recipients)?;
    let lifetime = duration(&arguments.expires_in, EXPIRES_HOURS_MAX, EXPIRES_MAX)?;
    let secrets = fetch(arguments, settings)?;
    let created = Timestamp::now();
    let lifetime = SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::ZERO);
    let header = Header {
        created,
        expires: created.saturating_add(lifetime).unwrap_or(created),
        hosts: if arguments.hosts.is_empty() { vec![host_name()] } else { arguments.hosts.clone() },
        threshold: arguments.threshold,
        recipients: recipients.iter().map(|recipient| recipient.name().to_owned()).collect(),
        secrets: secrets.iter().map(|(kept, _)| kept.clone()).collect(),
    };
    let plain: Vec<Secret> = secrets.into_iter().map(|(_, secret)| secret).collect();
    let file = || arguments.out.display().to_string();
    let unusable = |source| AnyFault::from(BreakGlassError::Sealed { file: file(), source });
    let text = seal(&header, &plain, &recipients).map_err(unusable)?;
    drop(plain);
    write(&arguments.out, text.as_bytes())?;
    let sealed = SealedFile::parse(text.as_bytes()).map_err(unusable)?;
    write_output(describe(&sealed).as_bytes())
}

fn recipients(names: &[String]) -> Result<Vec<Recipient>, BreakGlassError> {
    let mut seen = BTreeSet::new();
    let parse = |name: &String| {
        let recipient = Recipient::parse(name, Terminal).map_err(|source| BreakGlassError::Recipient { source })?;
        match seen.insert(recipient.name().to_owned()) {
            true => Ok(recipient),
            false => Err(BreakGlassError::SameRecipient { name: recipient.name().to_owned() }),
        }
    };
    names.iter().map(parse).collect()
}

/// Fetches and unseals everything, sorted by reference.
fn fetch(arguments: &Arguments, settings: &Settings) -> Result<Vec<(Kept, Secret)>, AnyFault> {
    let connect = Connect::of(settings)?;
    let keks = Keks::new(settings);
    block_on(settings, async |_| {
        let mut references = match &arguments.references {
            None => BTreeSet::new(),
            Some(path) => expand::of_file(path)?,
        };
        references.extend(expand::of_grants(&arguments.grants, settings, &connect, &keks).await?);
        if let Some(computed) = references.iter().find(|reference| reference.query().is_some()) {
            return Err(AnyFault::from(BreakGlassError::Computed { reference: computed.clone() }));
        }
        if references.is_empty() {
            return Err(AnyFault::from(BreakGlassError::Nothing));
        }
        let requests: Vec<Request> = references.iter().map(request).collect();
        let mut secrets = Vec::with_capacity(requests.len());
        for some in requests.chunks(FILES_MAX) {
            let deadline = Deadline::after(settings.deliver.deadline);
            let resolved = resolve(some, &connect, &keks, settings.deliver.plaintext, deadline).await;
            secrets.extend(resolved?.into_iter().map(kept));
        }
        secrets.sort_by(|(one, _), (other, _)| one.reference.cmp(&other.reference));
        Ok(secrets)
    })
}

fn kept(resolved: Resolved<'_>) -> (Kept, Secret) {
    let reference = resolved.request.reference.as_str().to_owned();
    // Connect always reports both.
    let (item, version) = (resolved.item_id.unwrap_or_default(), resolved.item_version.unwrap_or_default());
    (Kept { reference, item, version }, resolved.secret)
}

/// Writes the file atomically, with mode 0600, and never replaces one.
fn write(path: &Path, content: &[u8]) -> Result<(), BreakGlassError> {
    whole_file::write(path, content, Existing::Keep, |_| Ok(())).map_err(|error| BreakGlassError::File {
        verb: "write",
        file: path.display().to_string(),
        errno: error.into(),
    })
}

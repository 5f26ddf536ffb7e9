//! `oci-secrets break-glass`: for an outage of 1Password or the KMS. One file per verb.

mod close;
mod drill;
mod expand;
mod expire;
mod identity;
mod inspect;
mod open;
mod rotation;
mod seal;
mod status;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use zeroize::Zeroizing;

use super::{PROGRAM, block_on, is_root, load};
use crate::break_glass::channel::host_name;
use crate::break_glass::file::{SEALED_BYTES_MAX, SealedFile};
use crate::break_glass::store::{Emergency, Status};
use crate::break_glass::{BreakGlassError, ending, time};
use crate::container::Request;
use crate::excerpt::Excerpt;
use crate::fault::AnyFault;
use crate::reference::Reference;
use crate::settings::Settings;
use crate::{harden, report};

const EXAMPLE_EXPIRE: &str = "\
Example: the process that `open` starts

  oci-secrets break-glass expire </dev/null";

/// Start containers while 1Password or the KMS does not answer.
///
/// Before an outage, `seal` writes secrets to a file, and `drill` tests it. In an outage, `open` allows the hook to use them for a
/// limited time. Each secret that a container got in this way must be rotated afterwards: `status` lists them.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    Seal(seal::Arguments),
    Inspect(inspect::Arguments),
    Drill(drill::Arguments),
    Open(open::Arguments),
    Status(status::Arguments),
    Close(close::Arguments),
    #[command(subcommand)]
    Rotation(rotation::Verb),
    /// Wait for the end of the emergency, and remove its store. `open` starts it.
    #[command(hide = true, after_help = EXAMPLE_EXPIRE)]
    Expire,
}

pub(super) fn run(verb: &Verb, settings: &Path) -> Result<ExitCode, AnyFault> {
    // Secrets and keys in memory are not swapped to a disk.
    harden::lock_memory();
    if !matches!(verb, Verb::Seal(_) | Verb::Inspect(_)) && !is_root() {
        return Err(AnyFault::from(BreakGlassError::NotRoot));
    }
    match verb {
        Verb::Seal(arguments) => seal::run(arguments, &load(settings)?),
        Verb::Inspect(arguments) => inspect::run(arguments),
        Verb::Drill(arguments) => drill::run(arguments, &load(settings)?),
        Verb::Open(arguments) => open::run(arguments, &load(settings)?, settings),
        Verb::Status(arguments) => status::run(arguments, &load(settings)?),
        Verb::Close(arguments) => close::run(arguments, &load(settings)?),
        Verb::Rotation(verb) => rotation::run(verb, &load(settings)?),
        Verb::Expire => expire::run(&load(settings)?),
    }
}

/// Returns the open emergency, if there is one, and ends one that is over.
fn find(settings: &Settings) -> Result<Option<Emergency>, AnyFault> {
    match Emergency::current()? {
        Some(emergency) if emergency.status()? != Status::Open => end(&emergency, settings).map(|()| None),
        found => Ok(found),
    }
}

/// Ends an emergency, and also reports on the terminal if its key was removed.
fn end(emergency: &Emergency, settings: &Settings) -> Result<(), AnyFault> {
    let status = block_on(settings, async |_| Ok(ending::end(emergency, settings).await?))?;
    if status == Status::KeyRemoved {
        let id = &emergency.account().id;
        report::note(
            PROGRAM,
            &format!("emergency {id} was ended by a process that removed its key from root's keyring"),
        );
    }
    Ok(())
}

/// Reads a sealed file. It is ciphertext, so its mode does not matter.
pub(super) fn read(path: &Path) -> Result<SealedFile, BreakGlassError> {
    let file = path.display().to_string();
    let bytes = read_file(path, SEALED_BYTES_MAX)?;
    SealedFile::parse(&bytes).map_err(|source| BreakGlassError::Sealed { file, source })
}

fn read_file(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, BreakGlassError> {
    use std::io::Read as _;
    let mut bytes = Zeroizing::new(Vec::new());
    let read = std::fs::File::open(path).and_then(|file| file.take(bytes_max as u64).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        Err(error) => {
            Err(BreakGlassError::File { verb: "read", file: path.display().to_string(), errno: error.into() })
        }
    }
}

/// Refuses an expired file, and one for other hosts.
pub(super) fn admit(file: &SealedFile, path: &Path) -> Result<(), BreakGlassError> {
    let (header, host, name) = (&file.header, host_name(), || path.display().to_string());
    if !header.is_for(&host) {
        return Err(BreakGlassError::OtherHost { file: name(), hosts: header.hosts.clone(), host });
    }
    if header.expires <= jiff::Timestamp::now() {
        return Err(BreakGlassError::Expired { file: name(), expired: header.expires });
    }
    Ok(())
}

/// A request as a container would make it. Its file is never written; messages show the name of the field.
fn request(reference: Reference) -> Option<Request> {
    let field = reference.as_str().rsplit('/').next().and_then(|field| field.parse().ok());
    let file = field.or_else(|| "secret".parse().ok())?;
    Some(Request { file, reference, optional: false })
}

/// The header of a sealed file.
fn describe(file: &SealedFile) -> String {
    use std::fmt::Write as _;
    let header = &file.header;
    let hosts = header.hosts.iter().map(|host| Excerpt(host).to_string()).collect::<Vec<_>>().join(", ");
    let mut text = format!("sha256   {}\nsealed   {}\n", file.digest(), time(&header.created));
    let _ = writeln!(text, "expires  {}\nhosts    {hosts}", time(&header.expires));
    match header.threshold {
        None => text.push_str("opened   by any one of\n"),
        Some(threshold) => {
            let _ = writeln!(text, "opened   by {threshold} together of");
        }
    }
    for recipient in &header.recipients {
        let _ = writeln!(text, "         {}", Excerpt(recipient));
    }
    let _ = writeln!(text, "secrets  {}", header.secrets.len());
    for kept in &header.secrets {
        let _ = writeln!(text, "         {} (item {}, version {})", kept.reference, Excerpt(&kept.item), kept.version);
    }
    text
}

/// A duration as `4h` or `90d`.
fn duration(text: &str, max_hours: i64, max: &'static str) -> Result<Duration, BreakGlassError> {
    let wrong = || BreakGlassError::Duration { found: text.to_owned(), max };
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    let range = jiff::SignedDuration::from_secs(1)..=jiff::SignedDuration::from_hours(max_hours);
    if range.contains(&duration) { Duration::try_from(duration).map_err(|_| wrong()) } else { Err(wrong()) }
}

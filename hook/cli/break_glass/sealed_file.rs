//! The sealed file that an operator names.

use std::path::Path;

use super::input::read_file;
use crate::break_glass::channel::host_name;
use crate::break_glass::file::{SEALED_BYTES_MAX, SealedFile};
use crate::break_glass::{BreakGlassError, time};
use crate::excerpt::Excerpt;

/// Reads a sealed file. It is ciphertext, so its mode does not matter.
pub(in crate::cli) fn read(path: &Path) -> Result<SealedFile, BreakGlassError> {
    let file = path.display().to_string();
    let bytes = read_file(path, SEALED_BYTES_MAX)?;
    SealedFile::parse(&bytes).map_err(|source| BreakGlassError::Sealed { file, source })
}

/// Refuses an expired file, and one for other hosts.
pub(in crate::cli) fn admit(file: &SealedFile, path: &Path) -> Result<(), BreakGlassError> {
    let (header, host, name) = (&file.header, host_name(), || path.display().to_string());
    if !header.is_for(&host) {
        return Err(BreakGlassError::OtherHost { file: name(), hosts: header.hosts.clone(), host });
    }
    if header.expires <= jiff::Timestamp::now() {
        return Err(BreakGlassError::Expired { file: name(), expired: header.expires });
    }
    Ok(())
}

/// The header of a sealed file.
pub(super) fn describe(file: &SealedFile) -> String {
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

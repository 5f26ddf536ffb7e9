//! The mounts of one mount namespace: `/proc/<pid>/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The mounts of one mount namespace, as the reader's root shows them.
///
/// See [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
#[derive(Debug)]
pub struct Mounts(Vec<Mount>);

/// One line of `mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id, unique among the mounts that exist.
    pub id: u64,
    /// The id of the mount it is mounted on.
    pub parent: u64,
    /// The directory of the filesystem that is mounted, `/` unless it is a bind mount.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The filesystem's type: `tmpfs`, `ext4`, …
    pub fs_type: String,
    /// What it was mounted from, by its own account: a device, or any word.
    pub source: String,
    /// The peer group with which it shares what is mounted below it (`shared:N`).
    pub peer_group: Option<u64>,
    /// The peer group from which it receives what is mounted there (`master:N`).
    pub master: Option<u64>,
}

impl Mounts {
    /// Parses the content of a `mountinfo` file.
    ///
    /// # Errors
    /// When a line is not what the manual page describes.
    pub fn parse(mountinfo: &[u8]) -> Result<Mounts, MountsError> {
        let lines = mountinfo.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let mounts = lines.enumerate().map(|(index, line)| Mount::parse(line).ok_or(MountsError { line: index + 1 }));
        mounts.collect::<Result<_, _>>().map(Mounts)
    }

    /// The mount with this id.
    pub fn get(&self, id: u64) -> Option<&Mount> {
        self.iter().find(|mount| mount.id == id)
    }

    /// All mounts; a later one may hide an earlier one.
    pub fn iter(&self) -> std::slice::Iter<'_, Mount> {
        self.0.iter()
    }
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|b| *b == b' ');
        let id = number(fields.next()?)?;
        let parent = number(fields.next()?)?;
        let _device = fields.next()?;
        let root = path(fields.next()?);
        let point = path(fields.next()?);
        let _options = fields.next()?;
        let (mut peer_group, mut master) = (None, None);
        for field in fields.by_ref().take_while(|field| *field != b"-") {
            peer_group = peer_group.or_else(|| number(field.strip_prefix(b"shared:")?));
            master = master.or_else(|| number(field.strip_prefix(b"master:")?));
        }
        let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
        let source = String::from_utf8_lossy(fields.next()?).into_owned();
        Some(Mount { id, parent, root, point, fs_type, source, peer_group, master })
    }
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Decodes `\040` and its like, by which the kernel writes space, tab, newline and backslash.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let escaped =
            (*first == b'\\').then(|| tail.split_first_chunk().and_then(|(digits, tail)| Some((octal(digits)?, tail))));
        let (byte, tail) = escaped.flatten().unwrap_or((*first, tail));
        bytes.push(byte);
        rest = tail;
    }
    OsString::from_vec(bytes).into()
}

fn octal(digits: &[u8; 3]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// A line of `mountinfo` that is not what the manual page describes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot parse mountinfo: line {line}")]
pub struct MountsError {
    /// Its number, from 1.
    pub line: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_of_a_line() {
        let text =
            b"36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n\
                     37 36 0:5 / /x rw - tmpfs tmpfs rw\n";
        let mounts = Mounts::parse(text).unwrap();
        let first = Mount {
            id: 36,
            parent: 35,
            root: "/mnt1".into(),
            point: "/mnt 2\\x".into(),
            fs_type: "ext3".to_owned(),
            source: "/dev/root".to_owned(),
            peer_group: Some(7),
            master: Some(1),
        };
        assert_eq!(mounts.get(36), Some(&first));
        assert_eq!(mounts.get(37).unwrap().peer_group, None);
        assert_eq!(mounts.iter().count(), 2);
    }

    #[test]
    fn refuses_a_line_that_ends_early() {
        let error = Mounts::parse(b"36 35 98:0 / / rw - ext3 d rw\n36 35 98:0 / / rw shared:1").unwrap_err();
        assert_eq!(error, MountsError { line: 2 });
        assert!(Mounts::parse(b"x 35 98:0 / / rw - ext3 d rw").is_err());
    }

    #[test]
    fn leaves_a_backslash_without_digits() {
        assert_eq!(path(b"a\\9\\04"), PathBuf::from("a\\9\\04"));
    }

    #[test]
    fn reads_the_mounts_of_this_machine() {
        let mounts = Mounts::parse(&std::fs::read("/proc/self/mountinfo").unwrap()).unwrap();
        assert!(mounts.iter().any(|mount| mount.point.as_os_str() == "/"));
    }
}

//! How many containers were started with a static token of late.
//!
//! The starts of one span of time are one file of eight bytes each, so that those of any span as long are in two files at most. Each
//! start appends its own time, which the kernel does for many at once without mixing or losing any: no start waits for a lock. Nothing is
//! repaired: damage is reported until its time is over, and so is a clock that was set back.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, unlinkat};

use crate::errno::Errno;

const PREFIX: &str = "static-token-starts-";
const ENTRY_BYTES: u64 = 8;

/// The starts of the last span of this length.
pub(super) struct Starts {
    directory: OwnedFd,
    span: u64,
    now: u64,
}

impl Starts {
    pub(super) fn within(span: Duration, directory: OwnedFd) -> Starts {
        Starts { directory, span: span.as_secs().max(1), now: seconds(Timestamp::now()) }
    }

    /// Counts one more, and returns the number up to it.
    pub(super) fn add(&self) -> Result<u64, StartsError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
        let mut file = self.open(&self.name(0), flags)?.ok_or(StartsError::Damaged)?;
        whole(&file)?;
        file.write_all(&self.now.to_be_bytes())?;
        // An append leaves the file's offset behind what it wrote, whatever others have appended since.
        let here = file.stream_position()? / ENTRY_BYTES;
        if here == 1 {
            self.clear_away();
        }
        Ok(here + self.of_the_span_before()?)
    }

    /// How many they were.
    pub(super) fn count(&self) -> Result<u64, StartsError> {
        let here = self.open(&self.name(0), OFlags::RDONLY)?.map_or(Ok(0), |file| whole(&file))?;
        Ok(here + self.of_the_span_before()?)
    }

    /// Those of the span before this one that are not longer ago than a span: the last ones of its file.
    fn of_the_span_before(&self) -> Result<u64, StartsError> {
        let Some(file) = self.open(&self.name(1), OFlags::RDONLY)? else { return Ok(0) };
        let all = whole(&file)?;
        let (mut low, mut high) = (0, all);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut entry = [0; ENTRY_BYTES as usize];
            file.read_exact_at(&mut entry, middle * ENTRY_BYTES)?;
            match u64::from_be_bytes(entry).saturating_add(self.span) > self.now {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        Ok(all - low)
    }

    /// The file of the span that is `before` spans ago.
    fn name(&self, before: u64) -> String {
        format!("{PREFIX}{}-{}", self.span, (self.now / self.span).saturating_sub(before))
    }

    /// `None` if there is no such file, and it is not to be made.
    fn open(&self, name: &str, flags: OFlags) -> Result<Option<File>, StartsError> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Some(file.into())),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(StartsError::File { errno: errno.into() }),
        }
    }

    /// Removes what no start can look at any more.
    fn clear_away(&self) {
        let kept = [self.name(0), self.name(1)];
        for entry in Dir::read_from(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy();
            if name.starts_with(PREFIX) && !kept.iter().any(|kept| *kept == name) {
                let _ = unlinkat(&self.directory, entry.file_name(), AtFlags::empty());
            }
        }
    }
}

/// How many entries a file has, if all of them are whole.
fn whole(file: &File) -> Result<u64, StartsError> {
    let metadata = fstat(file.as_fd()).map_err(|errno| StartsError::File { errno: errno.into() })?;
    let bytes = u64::try_from(metadata.st_size).unwrap_or_default();
    let is_file = FileType::from_raw_mode(metadata.st_mode) == FileType::RegularFile;
    if is_file && bytes.is_multiple_of(ENTRY_BYTES) { Ok(bytes / ENTRY_BYTES) } else { Err(StartsError::Damaged) }
}

fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_second()).unwrap_or_default()
}

/// Why starts are not counted.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartsError {
    /// There is no place for the files.
    #[error("/run/oci-secrets is not a tmpfs of root's alone")]
    NoPlace,
    /// A file cannot be used.
    #[error("the file in /run/oci-secrets: {errno}")]
    File {
        /// What the kernel answered.
        errno: Errno,
    },
    /// A file holds something else.
    #[error("the file in /run/oci-secrets is damaged")]
    Damaged,
}

impl From<io::Error> for StartsError {
    fn from(error: io::Error) -> StartsError {
        StartsError::File { errno: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    /// Half past an hour.
    const NOON: u64 = 3600 * 1000 + 1800;

    fn place() -> (TempDir, File) {
        let directory = TempDir::new().unwrap();
        let opened = File::open(directory.path()).unwrap();
        (directory, opened)
    }

    fn at(directory: &File, now: u64) -> Starts {
        Starts { now, ..Starts::within(HOUR, directory.try_clone().unwrap().into()) }
    }

    #[test]
    fn counts_the_starts_of_the_last_span_and_no_others() {
        let (_directory, opened) = place();
        for (after, expected) in [(0, 1), (10, 2), (1799, 3), (1801, 4), (3599, 5), (3600, 5), (3611, 5), (9000, 1)] {
            assert_eq!(at(&opened, NOON + after).add().unwrap(), expected, "{after} s later");
            assert_eq!(at(&opened, NOON + after).count().unwrap(), expected, "{after} s later");
        }
        assert_eq!(at(&opened, NOON + 20_000).count().unwrap(), 0);
    }

    #[test]
    fn many_at_once_are_each_counted_once() {
        const THREADS: u64 = 16;
        const STARTS: u64 = 50;
        let (_directory, opened) = place();
        let counts: Vec<u64> = std::thread::scope(|scope| {
            let thread = || scope.spawn(|| (0..STARTS).map(|_| at(&opened, NOON).add().unwrap()).collect::<Vec<_>>());
            let threads: Vec<_> = (0..THREADS).map(|_| thread()).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(counts.into_iter().collect::<BTreeSet<_>>(), (1..=THREADS * STARTS).collect());
    }

    #[test]
    fn what_is_not_as_it_was_written_is_reported_and_kept() {
        let (directory, opened) = place();
        at(&opened, NOON).add().unwrap();
        let path = directory.path().join(at(&opened, NOON).name(0));
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"xyz").unwrap();
        assert!(matches!(at(&opened, NOON).add(), Err(StartsError::Damaged)));
        assert!(matches!(at(&opened, NOON + 3600).add(), Err(StartsError::Damaged)));
        assert_eq!(fs::read(&path).unwrap().len(), 11);
        assert_eq!(at(&opened, NOON + 7000).add().unwrap(), 2, "when its time is over, the next ones are counted");
    }

    #[test]
    fn follows_no_link_and_waits_for_no_fifo() {
        let (directory, opened) = place();
        let path = directory.path().join(at(&opened, NOON).name(0));
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(matches!(at(&opened, NOON).add(), Err(StartsError::File { .. })));
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(at(&opened, NOON).add().is_err());
    }

    #[test]
    fn keeps_two_files_at_most() {
        let (directory, opened) = place();
        fs::write(directory.path().join("other"), "").unwrap();
        for hour in 0..5 {
            at(&opened, NOON + hour * 3600).add().unwrap();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    }
}

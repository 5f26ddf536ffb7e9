//! The hook's last refusals, in memory of the host, for `oci-secrets explain --last`.
//!
//! crun discards a hook's standard error, and a host may have no system log. Each refusal is a file of its own, written once, so that
//! concurrent starts need no lock: a reader ignores a file that is not complete. Of one container only the newest file is kept, and at most
//! [`REFUSALS_MAX`] in all.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use jiff::Timestamp;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::run_directory;

/// The number of refusals that are kept.
pub const REFUSALS_MAX: usize = 64;

const DIRECTORY: &str = "refusals";
/// The longest file: an error and a hint are at most 2 KiB each before JSON escapes them.
const FILE_BYTES_MAX: u64 = 32 * 1024;
/// The longest name of a container, or part of such a name.
const NAME_CHARS_MAX: usize = 253;
const SEPARATOR: char = '_';

/// A container start that the hook refused.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// When.
    pub time: Timestamp,
    /// The container's id, if the state has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The container's name, as far as the engine passes it on: `<namespace>/<pod>/<container>` in Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The engine, as far as it can be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The error, as it was printed.
    pub error: String,
    /// Its hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The exit code of the hook.
    pub exit_code: u8,
}

impl Refused {
    /// Whether it is of this container: its name, the name of its pod, its id, or what the id begins with.
    pub fn is_of(&self, container: &str) -> bool {
        let is_id = self.container.as_ref().is_some_and(|id| id.starts_with(container));
        let is_name = |name: &String| name == container || name.split('/').skip(1).any(|part| part == container);
        is_id || self.name.as_ref().is_some_and(is_name)
    }

    /// With every text cut to what a file may hold.
    fn short(self) -> Refused {
        let cut = |text: String| text.chars().take(NAME_CHARS_MAX).collect();
        Refused { container: self.container.map(cut), name: self.name.map(cut), ..self }
    }
}

/// Keeps a refusal. A host without a directory for it loses it: that must not change what the hook does.
pub fn keep(refused: Refused) {
    if let Some(directory) = open() {
        let _ = keep_in(&directory, &refused.short());
        prune(&directory);
    }
}

/// The refusals that are kept, the newest first; `None` if this host has no directory for them.
pub fn kept() -> Option<Vec<Refused>> {
    open().map(|directory| kept_in(&directory))
}

fn open() -> Option<OwnedFd> {
    let parent = run_directory::open_own()?;
    match mkdirat(&parent, DIRECTORY, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(_) => return None,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(&parent, DIRECTORY, flags, Mode::empty()).ok()
}

fn keep_in(directory: &OwnedFd, refused: &Refused) -> Option<()> {
    let content = serde_json::to_vec(refused).ok()?;
    let name = file_name(refused);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, &name, flags, Mode::RUSR | Mode::WUSR).ok()?);
    let written = file.write_all(&content);
    if written.is_err() {
        let _ = unlinkat(directory, &name, AtFlags::empty());
    }
    written.ok()
}

/// `<time>_<pid>_<container>`, which sorts by time. An id that is no file name is left out.
fn file_name(refused: &Refused) -> String {
    let is_file_name = |id: &&str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let id = refused.container.as_deref().filter(|id| id.len() <= 128).filter(is_file_name).unwrap_or_default();
    let nanoseconds = refused.time.as_nanosecond().max(0);
    format!("{nanoseconds:020}{SEPARATOR}{}{SEPARATOR}{id}", std::process::id())
}

/// Removes all files but the newest of each container, and all that exceed [`REFUSALS_MAX`]. A file that another process adds or removes
/// meanwhile changes nothing: what is old stays old.
fn prune(directory: &OwnedFd) {
    let mut seen = BTreeSet::new();
    let mut count = 0;
    for name in names(directory) {
        let id = name.splitn(3, SEPARATOR).nth(2).unwrap_or_default();
        let is_newest = id.is_empty() || seen.insert(id.to_owned());
        if is_newest && count < REFUSALS_MAX {
            count += 1;
        } else {
            let _ = unlinkat(directory, &name, AtFlags::empty());
        }
    }
}

fn kept_in(directory: &OwnedFd) -> Vec<Refused> {
    let read = |name: String| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(directory, &name, flags, Mode::empty()).ok()?);
        let mut content = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut content).ok()?;
        serde_json::from_slice(&content).ok()
    };
    names(directory).into_iter().take(REFUSALS_MAX).filter_map(read).collect()
}

/// The names of the files, the newest first.
fn names(directory: &OwnedFd) -> Vec<String> {
    let entries = Dir::read_from(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned)).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort_unstable_by(|one, other| other.cmp(one));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(id: &str, second: i64) -> Refused {
        Refused {
            time: Timestamp::from_second(second).unwrap(),
            container: Some(id.to_owned()),
            name: Some("agents/billing-0/app".into()),
            engine: Some("containerd".into()),
            error: format!("refusal {second}"),
            hint: None,
            exit_code: 77,
        }
    }

    fn directory() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let opened = File::open(directory.path()).unwrap().into();
        (directory, opened)
    }

    fn keep(directory: &OwnedFd, refused: Refused) {
        keep_in(directory, &refused.short()).unwrap();
        prune(directory);
    }

    #[test]
    fn a_container_is_found_by_id_name_and_pod() {
        let refused = refused("4f2a9c1b77de0011", 0);
        for name in ["4f2a9c1b77de0011", "4f2a9c", "agents/billing-0/app", "billing-0", "app"] {
            assert!(refused.is_of(name), "{name}");
        }
        for name in ["f2a9", "agents", "billing"] {
            assert!(!refused.is_of(name), "{name}");
        }
    }

    #[test]
    fn keeps_the_newest_of_each_container_and_a_bounded_number() {
        let (path, directory) = directory();
        for second in 0..3 * REFUSALS_MAX as i64 {
            keep(&directory, refused(&format!("id-{}", second % 100), second));
        }
        let kept = kept_in(&directory);
        assert_eq!(kept.len(), REFUSALS_MAX);
        assert_eq!(std::fs::read_dir(path.path()).unwrap().count(), REFUSALS_MAX);
        let newest = 3 * REFUSALS_MAX as i64 - 1;
        let expected: Vec<String> =
            (0..).map(|before| format!("refusal {}", newest - before)).take(REFUSALS_MAX).collect();
        assert_eq!(kept.into_iter().map(|refused| refused.error).collect::<Vec<_>>(), expected);

        for second in 1000..1010 {
            keep(&directory, refused("one", second));
        }
        let of_one = |refused: &Refused| refused.is_of("one");
        assert_eq!(kept_in(&directory).iter().filter(|one| of_one(one)).count(), 1);
        assert_eq!(kept_in(&directory)[0].error, "refusal 1009");
    }

    #[test]
    fn refusals_without_an_id_and_with_ids_that_are_no_file_names_are_kept() {
        let (path, directory) = directory();
        for (second, id) in ["../../etc/passwd", "a\0b", &"x".repeat(100_000)].iter().enumerate() {
            keep(&directory, refused(id, second as i64));
        }
        keep(&directory, Refused { container: None, ..refused("", 7) });
        assert_eq!(kept_in(&directory).len(), 4);
        assert!(std::fs::read_dir(path.path()).unwrap().all(|file| file.unwrap().metadata().unwrap().len() < 1024));
    }

    #[test]
    fn an_incomplete_file_is_ignored_and_removed_in_its_turn() {
        let (path, directory) = directory();
        keep(&directory, refused("a", 1));
        std::fs::write(path.path().join("00000000002000000000_9_b"), r#"{"time":"#).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path.path().join("00000000003000000000_9_c")).unwrap();
        assert_eq!(kept_in(&directory), [refused("a", 1)]);
        for second in 0..REFUSALS_MAX {
            keep(&directory, refused(&format!("id-{second}"), 10 + second as i64));
        }
        assert_eq!(kept_in(&directory).len(), REFUSALS_MAX);
    }

    #[test]
    fn concurrent_refusals_are_all_kept_and_never_read_in_part() {
        const THREADS: i64 = 8;
        let (_path, directory) = directory();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let directory = &directory;
                scope.spawn(move || {
                    for second in 0..50 {
                        keep(directory, refused(&format!("id-{thread}"), second * THREADS + thread));
                        assert!(kept_in(directory).iter().any(|one| one.is_of(&format!("id-{thread}"))));
                    }
                });
            }
        });
        assert_eq!(kept_in(&directory).len(), THREADS as usize);
    }
}

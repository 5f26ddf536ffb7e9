//! Searches processes, mounts and files for leaked secrets and leftovers.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use regex::bytes::Regex;

/// The timeout for an engine's cleanup after its command has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// The directories in which programs could leave a file.
const WRITABLE: [&str; 7] = ["/dev/shm", "/etc", "/run", "/tmp", "/var/lib", "/var/log", "/var/tmp"];

/// A text that must not be found, as it is and in base64.
pub(crate) struct Needle(Regex);

impl Needle {
    pub(crate) fn new(text: &str) -> Needle {
        let mut forms = vec![regex::escape(text)];
        // Its base64 depends on the number of bytes before it. Characters that also depend on adjacent bytes are omitted.
        for before in 0..3 {
            let encoded = STANDARD_NO_PAD.encode([&vec![0; before], text.as_bytes()].concat());
            let shared_at_end = usize::from(!(before + text.len()).is_multiple_of(3));
            forms.push(regex::escape(&encoded[[0, 2, 3][before]..encoded.len() - shared_at_end]));
        }
        Needle(Regex::new(&forms.join("|")).unwrap())
    }

    pub(crate) fn is_in(&self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.is_match(bytes.as_ref())
    }

    /// The environments and command lines that contain it.
    pub(crate) fn processes(&self) -> Vec<PathBuf> {
        let files = processes().flat_map(|process| [process.join("environ"), process.join("cmdline")]);
        files.filter(|file| self.is_in(fs::read(file).unwrap_or_default())).collect()
    }

    /// The files that contain it and changed since that time (seconds since 1970).
    ///
    /// The search does not cross mount points: reading files such as /proc/kmsg may block forever.
    pub(crate) fn files(&self, since: i64) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        let mut directories: Vec<_> =
            WRITABLE.iter().map(|path| (PathBuf::from(path), device(path.as_ref()))).collect();
        while let Some((directory, filesystem)) = directories.pop() {
            // Concurrent compilers mark their output directories: https://bford.info/cachedir/
            if directory.join("CACHEDIR.TAG").exists() {
                continue;
            }
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() && filesystem == Some(metadata.dev()) {
                    directories.push((entry.path(), filesystem));
                } else if metadata.is_file()
                    && metadata.ctime() >= since
                    && self.is_in(fs::read(entry.path()).unwrap_or_default())
                {
                    found.push(entry.path());
                }
            }
        }
        found
    }
}

/// Processes and mounts that still belong to a container of this name, once an engine had time to clean up.
pub(crate) fn left(name: &str) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = left_now(name);
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Processes and mounts of a container of this name: a process whose mounts include the container's root filesystem is in it, or
/// keeps its mounts alive.
pub(crate) fn left_now(name: &str) -> Vec<String> {
    let mut left = Vec::new();
    for process in processes() {
        for file in ["cmdline", "mountinfo"].map(|file| process.join(file)) {
            let text = String::from_utf8_lossy(&fs::read(&file).unwrap_or_default()).replace('\0', " ");
            left.extend(
                text.lines().filter(|line| line.contains(name)).map(|line| format!("{}: {line}", file.display())),
            );
        }
    }
    left
}

/// The mount namespaces in which the root filesystem of a container of this name is mounted.
pub(crate) fn mount_namespaces(name: &str) -> BTreeSet<PathBuf> {
    let is_inside =
        |process: &PathBuf| fs::read_to_string(process.join("mountinfo")).unwrap_or_default().contains(name);
    processes().filter(is_inside).filter_map(|process| fs::read_link(process.join("ns/mnt")).ok()).collect()
}

/// The processes whose command line contains all of these words.
pub(crate) fn pids(words: &[&str]) -> Vec<u32> {
    let has_words = |process: &PathBuf| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        words.iter().all(|word| line.split('\0').any(|argument| argument == *word))
    };
    let pid = |process: PathBuf| process.file_name()?.to_str()?.parse().ok();
    processes().filter(has_words).filter_map(pid).collect()
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let is_process = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
    entries.filter(is_process).map(|entry| entry.path())
}

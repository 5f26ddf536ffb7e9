//! Appends a line to a file of JSON lines that several processes write to.

use std::fs::File;
use std::io::{self, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use super::tail::is_whole;

/// How long an append waits for the file's lock. Other processes hold it for one write.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(1);

/// Appends one line in one write. If an interrupted write has left a line without its newline, that line is ended first.
///
/// The file's lock distinguishes a write in progress from an interrupted one. A process that holds the lock cannot block container
/// starts: after a timeout the line is written without it, and an empty line may precede it.
///
/// # Errors
/// If the file cannot be read or written. It may then end with a part of the line, which the next append ends.
pub fn append_line(file: &File, line: &str) -> io::Result<()> {
    let is_locked = lock(file);
    let written = is_whole(file).and_then(|is_whole| {
        let before = if is_whole { "" } else { "\n" };
        let mut writer = file;
        writer.write_all(format!("{before}{line}\n").as_bytes())
    });
    if is_locked {
        let _ = file.unlock();
    }
    written
}

fn lock(file: &File) -> bool {
    let until = Instant::now() + PATIENCE;
    while file.try_lock().is_err() {
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(PAUSE.mul_f64(0.5 + fastrand::f64()));
    }
    true
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::settings::file;

    #[test]
    fn concurrent_appends_leave_no_empty_line() {
        const WRITERS: usize = 8;
        const LINES: usize = 50;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        // Many pages, so that other threads can observe a write in progress.
        let line = "x".repeat(128 * 1024);
        thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| {
                    for _ in 0..LINES {
                        append_line(&file::append(&path).unwrap(), &line).unwrap();
                    }
                });
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().filter(|line| line.is_empty()).count(), 0);
        assert_eq!(text.lines().count(), WRITERS * LINES);
    }

    #[test]
    fn ends_an_interrupted_line_and_times_out_on_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        fs::write(&path, "{\"sch").unwrap();
        let holder = File::open(&path).unwrap();
        holder.lock().unwrap();
        append_line(&file::append(&path).unwrap(), "{}").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"sch\n{}\n");
    }
}

//! A FUSE file system without a path, whose one file opens, and never answers when one process closes it.

use std::ffi::c_int;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

const DEVICE: &str = "/dev/fuse";

/// Requests, as `linux/fuse.h` numbers them.
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;

const REGULAR_FILE: u32 = 0o100_644;

/// The file system. When this is dropped, every process that waits for it continues.
pub(crate) struct Fuse {
    mount: OwnedFd,
    flushes: Arc<AtomicUsize>,
    end: Option<File>,
    server: Option<JoinHandle<()>>,
}

impl Fuse {
    /// Mounts it for a process that is to wait; `None` if the kernel has no FUSE. Others, such as the test's child processes, are answered.
    pub(crate) fn mount(waits: u32) -> Option<Fuse> {
        let device = File::options().read(true).write(true).open(DEVICE);
        if let Err(error) = &device {
            assert!(std::env::var_os("CI").is_none(), "{DEVICE}: {error}");
            eprintln!("skipped: {DEVICE}: {error}");
        }
        let device = device.ok()?;
        let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        let descriptor: c_int = device.as_raw_fd();
        for (key, value) in [
            ("source", "test".to_owned()),
            ("fd", descriptor.to_string()),
            ("rootmode", format!("{REGULAR_FILE:o}")),
            ("user_id", "0".to_owned()),
            ("group_id", "0".to_owned()),
        ] {
            fsconfig_set_string(&context, key, value).unwrap();
        }
        fsconfig_create(&context).unwrap();
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
        let (ended, end) = std::io::pipe().unwrap();
        let flushes = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&flushes);
        let server = std::thread::spawn(move || serve(device, &OwnedFd::from(ended).into(), waits, &counted));
        Some(Fuse { mount, flushes, end: Some(OwnedFd::from(end).into()), server: Some(server) })
    }

    /// Opens the file. It must be closed after the file system has ended.
    pub(crate) fn open(&self) -> OwnedFd {
        let path = format!("/proc/self/fd/{}", self.mount.as_raw_fd());
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty()).unwrap()
    }

    /// How many closes are waiting.
    pub(crate) fn flushes(&self) -> usize {
        self.flushes.load(Ordering::Relaxed)
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.server.take().map(JoinHandle::join);
    }
}

fn serve(mut device: File, end: &File, waits: u32, flushes: &AtomicUsize) {
    loop {
        let mut fds = [PollFd::new(&device, PollFlags::IN), PollFd::new(&end, PollFlags::empty())];
        // Nothing waits for ever, even if a test does.
        let ready = poll(&mut fds, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })).unwrap();
        if ready == 0 || !fds[1].revents().is_empty() {
            return;
        }
        let mut request = vec![0; 1 << 17];
        let length = match device.read(&mut request) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::NotFound) => continue,
            Err(_) => return,
        };
        let number = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        assert!(length >= 40);
        let body = match number(4) {
            // Version 7.31, and no feature.
            INIT => [7, 31, 0, 0, 0, 4096, 1].into_iter().chain([0; 9]).flat_map(u32::to_ne_bytes).collect(),
            // The validity, then the attributes: the inode, its mode and its links.
            GETATTR => {
                let mut attributes = [0_u32; 26];
                (attributes[4], attributes[4 + 15], attributes[4 + 16]) = (1, REGULAR_FILE, 1);
                attributes.into_iter().flat_map(u32::to_ne_bytes).collect()
            }
            OPEN => vec![0; 16],
            FLUSH if std::path::Path::new(&format!("/proc/{waits}/task/{}", number(32))).exists() => {
                flushes.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            RELEASE | FLUSH => Vec::new(),
            _ => continue,
        };
        let head = [u32::try_from(body.len() + 16).unwrap(), 0, number(8), number(12)];
        let answer: Vec<u8> = head.into_iter().flat_map(u32::to_ne_bytes).chain(body).collect();
        device.write_all(&answer).unwrap();
    }
}

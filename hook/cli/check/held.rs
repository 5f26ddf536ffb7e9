//! Which processes of a container have files of earlier generations.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use crate::deliver::{SOURCE, is_frozen};

/// The processes with a descriptor, a directory or a mapping in a delivery that is not the one that the container has now, by number.
///
/// The kernel frees a delivery that is not mounted any more with the last of them.
pub(super) fn processes(first: i32) -> Vec<i32> {
    let current = deliveries(first);
    let of_container = |pid: &i32| ["ns/mnt", "ns/pid"].iter().any(|namespace| shares(*pid, first, namespace));
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(of_container).filter(|pid| has_another(*pid, &current)).collect()
}

/// Whether both are in one namespace, and not in that of the host.
fn shares(pid: i32, first: i32, namespace: &str) -> bool {
    let of = |process: &str| fs::read_link(format!("/proc/{process}/{namespace}")).ok();
    let own = of(&first.to_string());
    own.is_some() && of(&pid.to_string()) == own && of("self") != own
}

fn has_another(pid: i32, current: &BTreeSet<u64>) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let below = |name: &str| fs::read_dir(process.join(name)).into_iter().flatten().flatten().map(|entry| entry.path());
    let opened = below("fd").chain(below("map_files")).chain([process.join("cwd"), process.join("root")]);
    let mut opened = opened.filter_map(|path| delivery(&path));
    deliveries(pid).difference(current).next().is_some() || opened.any(|device| !current.contains(&device))
}

/// The device of the delivery in which a file is, if it is in one.
fn delivery(path: &Path) -> Option<u64> {
    let file = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    is_frozen(&file).ok().filter(|is_frozen| *is_frozen)?;
    Some(fstat(&file).ok()?.st_dev)
}

/// The devices of the deliveries that a process has mounted.
fn deliveries(pid: i32) -> BTreeSet<u64> {
    let mountinfo = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    mountinfo.lines().filter_map(device).collect()
}

/// The device of a line of `mountinfo`, if it is that of a delivery.
fn device(line: &str) -> Option<u64> {
    let (before, after) = line.split_once(" - ")?;
    let mut kind = after.split(' ');
    let (major, minor) = before.split(' ').nth(2)?.split_once(':')?;
    let is_delivery = kind.next() == Some("tmpfs") && kind.next() == Some(SOURCE);
    is_delivery.then_some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_device_of_a_delivery_and_of_nothing_else() {
        let line = |kind: &str| format!("64 60 0:57 / /run/secrets ro,nosuid master:3 - {kind} ro,size=8k");
        assert_eq!(device(&line("tmpfs oci-secrets")), Some(rustix::fs::makedev(0, 57)));
        for other in ["tmpfs tmpfs", "ext4 oci-secrets", "tmpfs"] {
            assert_eq!(device(&line(other)), None, "{other}");
        }
    }

    #[test]
    fn a_process_of_the_host_is_none_of_a_container() {
        let own = std::process::id().cast_signed();
        assert!(processes(own).is_empty());
    }
}

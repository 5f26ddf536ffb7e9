//! Ids of a user namespace.

use rustix::process::Pid;

use super::{Owner, Procfs, ProcfsError};
use crate::fault::{Class, Fault};

/// How ids in another user namespace read in ours.
#[derive(Debug)]
pub struct IdMaps {
    uids: IdMap,
    gids: IdMap,
}

impl IdMaps {
    /// Reads those of a process's user namespace.
    ///
    /// # Errors
    /// When `/proc` does not answer.
    pub fn read(procfs: &Procfs, pid: Pid) -> Result<IdMaps, IdMapError> {
        let of = |name: &str| format!("{}/{name}", pid.as_raw_nonzero());
        let (uids, gids) = (procfs.read(&of("uid_map"))?, procfs.read(&of("gid_map"))?);
        Ok(IdMaps { uids: IdMap::parse(&uids)?, gids: IdMap::parse(&gids)? })
    }

    /// Whether every id of the other user namespace is one of this one, too.
    pub fn cover(&self, other: &IdMaps) -> bool {
        self.uids.covers(&other.uids) && self.gids.covers(&other.gids)
    }

    /// Whether the user with this id, in ours, has one there.
    pub fn have_user(&self, uid: u32) -> bool {
        self.uids.covers(&IdMap(vec![[0, uid, 1]]))
    }

    /// An owner in ids of ours; without a user or group that has no id there.
    pub(super) fn outside(&self, owner: Owner) -> (Option<u32>, Option<u32>) {
        (self.uids.outside(owner.uid), self.gids.outside(owner.gid))
    }

    /// Whether an owner in ids of ours has ids there.
    pub(super) fn have_owner(&self, owner: Owner) -> bool {
        self.uids.has_outside(owner.uid) && self.gids.has_outside(owner.gid)
    }
}

/// The lines of a `uid_map` or `gid_map`: first id inside, first id outside, how many.
#[derive(Debug)]
struct IdMap(Vec<[u32; 3]>);

impl IdMap {
    fn parse(content: &[u8]) -> Result<IdMap, IdMapError> {
        let text = String::from_utf8_lossy(content);
        let line = |line: &str| {
            let ids: Result<Vec<u32>, _> = line.split_whitespace().map(str::parse).collect();
            ids.ok()?.try_into().ok()
        };
        let lines = text.lines().map(line).collect::<Option<_>>();
        lines.map(IdMap).ok_or(IdMapError::Form)
    }

    /// Whether all ids outside that the other map has are in this one, too.
    fn covers(&self, other: &IdMap) -> bool {
        let covered_from = |id: u64| {
            let lines = self.0.iter().map(|[_, outside, count]| (u64::from(*outside), u64::from(*count)));
            lines.map(|(outside, count)| outside..outside + count).find(|ids| ids.contains(&id)).map(|ids| ids.end)
        };
        other.0.iter().all(|[_, outside, count]| {
            let (mut next, end) = (u64::from(*outside), u64::from(*outside) + u64::from(*count));
            while next < end {
                match covered_from(next) {
                    Some(end) => next = end,
                    None => return false,
                }
            }
            true
        })
    }

    fn outside(&self, id: u32) -> Option<u32> {
        let lines = self.0.iter();
        let mut mapped = lines.filter_map(|[inside, outside, count]| {
            let offset = id.checked_sub(*inside).filter(|offset| offset < count)?;
            outside.checked_add(offset).and_then(valid)
        });
        mapped.next()
    }

    fn has_outside(&self, id: u32) -> bool {
        self.0.iter().any(|[_, outside, count]| id.checked_sub(*outside).is_some_and(|offset| offset < *count))
    }
}

/// The highest number is not an id: id maps use it for an id that is not mapped, and chown(2) takes it for "no
/// change".
pub(super) fn valid(id: u32) -> Option<u32> {
    Some(id).filter(|id| *id != u32::MAX)
}

/// Why the ids of a user namespace are not known.
#[derive(Debug, thiserror::Error)]
pub enum IdMapError {
    /// A `uid_map` or `gid_map` that is not what user_namespaces(7) describes.
    #[error("cannot parse the id maps of the container's user namespace")]
    Form,
    /// `/proc` did not answer.
    #[error(transparent)]
    Procfs(#[from] ProcfsError),
}

impl Fault for IdMapError {
    fn class(&self) -> Class {
        Class::Kernel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_ids_line_by_line() {
        let map = IdMap::parse(b"         0     100000      65536\n     70000          5          2\n").unwrap();
        assert_eq!((map.outside(0), map.outside(65535)), (Some(100_000), Some(165_535)));
        assert_eq!((map.outside(70_000), map.outside(70_001)), (Some(5), Some(6)));
        assert_eq!((map.outside(65_536), map.outside(70_002), map.outside(u32::MAX)), (None, None, None));
        assert!(map.has_outside(100_000) && map.has_outside(165_535) && map.has_outside(6));
        assert!(!map.has_outside(99_999) && !map.has_outside(165_536) && !map.has_outside(7) && !map.has_outside(0));
        let whole = IdMap::parse(b"0 0 4294967295").unwrap();
        assert_eq!((whole.outside(u32::MAX - 1), whole.outside(u32::MAX)), (Some(u32::MAX - 1), None));
        assert_eq!(IdMap::parse(b"0 4294967295 1").unwrap().outside(0), None);
        assert_eq!(IdMap::parse(b"").unwrap().outside(0), None);
        for broken in ["0 1\n", "0 1 2 3", "0 0 x 1", "0 0 1\n\n"] {
            assert!(matches!(IdMap::parse(broken.as_bytes()), Err(IdMapError::Form)), "{broken}");
        }
    }

    #[test]
    fn a_map_covers_another_or_not() {
        let map = |text: &str| IdMap::parse(text.as_bytes()).unwrap();
        let users = map("0 1000 1\n1 100000 65536");
        for within in ["0 1000 1", "5 100000 65536", "0 100000 10\n10 165535 1\n11 1000 1", "0 100010 0", ""] {
            assert!(users.covers(&map(within)), "{within}");
        }
        for beyond in ["0 1000 2", "0 0 1", "0 99999 2", "0 165535 2", "0 0 4294967295", "0 4294967295 4294967295"] {
            assert!(!users.covers(&map(beyond)), "{beyond}");
        }
        assert!(map("0 0 4294967295").covers(&users));
        assert!(map("0 5 5\n5 10 5").covers(&map("0 7 6")));
    }

    /// Every map of up to two lines of small, and of the largest, numbers; also those that the kernel does not accept.
    fn small_maps(inside: &[u32], outside: &[u32], counts: &[u32]) -> Vec<IdMap> {
        let lines: Vec<[u32; 3]> = inside
            .iter()
            .flat_map(|inside| outside.iter().map(|outside| [*inside, *outside]))
            .flat_map(|[inside, outside]| counts.iter().map(move |count| [inside, outside, *count]))
            .collect();
        let pairs = lines.iter().flat_map(|one| lines.iter().map(|other| vec![*one, *other]));
        let maps = [Vec::new()].into_iter().chain(lines.iter().map(|line| vec![*line])).chain(pairs);
        maps.map(IdMap).collect()
    }

    #[test]
    fn every_small_map_reads_as_its_lines_say() {
        let numbers = [0, 1, 2, u32::MAX - 1, u32::MAX];
        let ids = [0, 1, 2, 3, u32::MAX - 2, u32::MAX - 1, u32::MAX];
        for map in small_maps(&numbers, &numbers, &[0, 1, 2, u32::MAX]) {
            // Without the limits of 32 bits: an id, and the one that it is outside.
            let pairs = |id: u32| {
                let lines = map.0.iter().map(|line| line.map(u64::from));
                let id = u64::from(id);
                lines
                    .filter(move |[inside, _, count]| (*inside..inside + count).contains(&id))
                    .map(move |[inside, outside, _]| outside + (id - inside))
            };
            for id in ids {
                let expected = pairs(id).find(|outside| *outside < u64::from(u32::MAX));
                assert_eq!(map.outside(id).map(u64::from), expected, "{map:?} {id}");
                let is_outside = map.0.iter().map(|line| line.map(u64::from));
                let is_outside = is_outside.map(|[_, outside, count]| outside..outside + count);
                let expected = is_outside.into_iter().any(|ids| ids.contains(&u64::from(id)));
                assert_eq!(map.has_outside(id), expected, "{map:?} {id}");
                assert!(map.outside(id).is_none_or(|outside| map.has_outside(outside)), "{map:?} {id}");
            }
        }
    }

    #[test]
    fn every_small_map_covers_those_whose_ids_it_has() {
        let maps = small_maps(&[0], &[0, 1, 3, u32::MAX - 1], &[0, 1, 2, u32::MAX]);
        let ranges = |map: &IdMap| -> Vec<std::ops::Range<u64>> {
            let lines = map.0.iter().map(|line| line.map(u64::from));
            lines.map(|[_, outside, count]| outside..outside + count).collect()
        };
        let all: Vec<_> = maps.iter().map(ranges).collect();
        for (one, its) in maps.iter().zip(&all) {
            for (other, others) in maps.iter().zip(&all) {
                let has = |ranges: &[std::ops::Range<u64>], id: u64| ranges.iter().any(|ids| ids.contains(&id));
                // Between these numbers nothing changes.
                let mut ids = its.iter().chain(others).flat_map(|ids| [ids.start, ids.end]);
                let expected = ids.all(|id| !has(others, id) || has(its, id));
                assert_eq!(one.covers(other), expected, "{one:?} {other:?}");
            }
        }
    }
}

//! The file for records if no system log accepts them and the settings name no file.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::AuditError;
use crate::harden::is_root_of_the_host;
use crate::settings::FileError;
use crate::settings::file;

const OF_ROOT: &str = "/var/log/oci-secrets/audit.jsonl";
/// Below the home directory, in the state directory of the XDG specification.
const OF_A_USER: &str = ".local/state/oci-secrets/audit.jsonl";
const USERS: &str = "/etc/passwd";

/// Its path: in `/var/log` for root on the host, else in the user's state directory.
///
/// It does not depend on the environment: the hook has none, and the command must find the same file.
///
/// # Errors
/// If the user has no home directory.
pub fn default_file() -> Result<PathBuf, AuditError> {
    if is_root_of_the_host() {
        return Ok(OF_ROOT.into());
    }
    let uid = uid_on_the_host();
    let users = fs::read_to_string(USERS).unwrap_or_default();
    let home = home_of(uid, &users).ok_or(AuditError::NoDefaultFile { uid })?;
    Ok(home.join(OF_A_USER))
}

/// Opens it, and creates what is missing: directories with mode 0700, the file with 0600.
pub(super) fn open() -> Result<(PathBuf, File), AuditError> {
    let path = default_file()?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let opened = made.map_err(|error| FileError::Open { path: path.clone(), errno: error.into() });
    let opened = opened.and_then(|()| file::append(&path));
    opened.map(|file| (path, file)).map_err(|source| AuditError::DefaultFile { source })
}

/// Our UID in the initial user namespace: rootless podman runs the hook in a user namespace.
fn uid_on_the_host() -> u32 {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    outside(rustix::process::geteuid().as_raw(), &map)
}

fn outside(uid: u32, map: &str) -> u32 {
    let range = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().ok());
        let (inside, outside, length) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let offset = uid.checked_sub(inside).filter(|offset| *offset < length)?;
        outside.checked_add(offset)
    };
    map.lines().find_map(range).unwrap_or(uid)
}

/// The home directory of a user in the text of `/etc/passwd`. getpwuid(3) would load shared libraries.
fn home_of(uid: u32, users: &str) -> Option<PathBuf> {
    let home = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let is_it = fields.next()?.parse() == Ok(uid);
        fields.nth(2).filter(|home| is_it && home.starts_with('/')).map(PathBuf::from)
    };
    users.lines().find_map(home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_home_directory_inside_a_user_namespace() {
        const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000:Ada,,,:/home/ada:/bin/sh\nx:x:7:7::none:/";
        let podman = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(outside(0, podman), 1000);
        assert_eq!(outside(2, podman), 100_001);
        assert_eq!(home_of(outside(0, podman), USERS), Some("/home/ada".into()));
        assert_eq!(home_of(0, USERS), Some("/root".into()));
        assert_eq!(home_of(7, USERS), None);
        assert_eq!(home_of(5, USERS), None);
    }
}

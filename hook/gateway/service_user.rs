//! The user who runs the service, and whose rights `--check` has.
//!
//! Root can read files that the service cannot, would refuse files that are the service's own, and would leave behind an audit file
//! that the service cannot write.

use std::fs;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::error::GatewayError;
use super::log::PROGRAM;
use crate::errno::{SyscallError, failed};

/// Not by getpwnam(3), which loads shared libraries. The user that `packaging/systemd` creates is in this file.
const USERS: &str = "/etc/passwd";

/// If this process is root's and the service has a user of its own, changes to that user for good, and returns its name.
///
/// # Errors
/// The change fails.
pub fn assume() -> Result<Option<&'static str>, GatewayError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string(USERS).unwrap_or_default();
    let Some((uid, gid)) = find(&users, PROGRAM) else { return Ok(None) };
    change(uid, gid).map_err(|source| GatewayError::User { source })?;
    Ok(Some(PROGRAM))
}

fn change(uid: Uid, gid: Gid) -> Result<(), SyscallError> {
    setgroups(&[gid]).map_err(failed("setgroups"))?;
    setresgid(gid, gid, gid).map_err(failed("setresgid"))?;
    setresuid(uid, uid, uid).map_err(failed("setresuid"))
}

/// The ids of a user in the format of passwd(5).
fn find(users: &str, name: &str) -> Option<(Uid, Gid)> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((Uid::from_raw(uid), Gid::from_raw(gid)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_ids_of_a_user() {
        let users =
            "root:x:0:0::/:/bin/sh\noci-secrets:x:1:1::/:\noci-secrets-gateway:x:998:997:Gateway:/:/bin/false\n";
        let found = find(users, "oci-secrets-gateway").map(|(uid, gid)| (uid.as_raw(), gid.as_raw()));
        assert_eq!(found, Some((998, 997)));
        assert_eq!(find(users, "oci-secrets-gatewa"), None);
        assert_eq!(find("oci-secrets-gateway:x:one:1::/:", "oci-secrets-gateway"), None);
    }
}

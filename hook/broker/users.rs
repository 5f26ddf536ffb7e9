//! The names of users in grants.

use std::collections::BTreeMap;

use crate::settings::Grants;

/// Not by getpwnam(3), which loads shared libraries, and may wait for a directory in the network.
const PASSWD: &str = "/etc/passwd";

/// The users that grants name, by their ids.
pub struct Users(BTreeMap<u32, String>);

impl Users {
    /// Looks up the users of all grants: by name in `/etc/passwd`, or by number.
    pub fn of(grants: &Grants) -> Users {
        // Without it, grants by name are for nobody.
        Users::parse(grants, &std::fs::read_to_string(PASSWD).unwrap_or_default())
    }

    fn parse(grants: &Grants, passwd: &str) -> Users {
        let named = |name: &str| {
            let id = |line: &str| {
                let mut fields = line.split(':');
                (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
            };
            passwd.lines().find_map(id).or_else(|| name.parse().ok())
        };
        let users = grants.iter().filter_map(|grant| grant.user());
        Users(users.filter_map(|name| Some((named(name)?, name.to_owned()))).collect())
    }

    /// The name by which grants know a user; the number if none does.
    pub fn name(&self, uid: u32) -> String {
        self.0.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_name_users_by_name_or_number() {
        let grant = |user: &str| format!("[[grant]]\nreferences = ['op://v/*']\nto = {{ user = '{user}' }}\n");
        let text = ["alice", "1002", "nobody-here"].map(grant).concat();
        let grants = text.parse::<crate::settings::Settings>().unwrap().grants;
        let users = Users::parse(&grants, "root:x:0:0::/:/bin/sh\nalice:x:1001:5::/:\n1002:x:7:7::/:\n");
        assert_eq!([1001, 7, 1002, 0].map(|uid| users.name(uid)), ["alice", "1002", "1002", "0"]);
    }
}

//! The names of users in grants.

use std::collections::BTreeMap;

use crate::settings::Grants;

/// Not by getpwnam(3), which loads shared libraries, and may wait for a directory in the network.
const PASSWD: &str = "/etc/passwd";

/// The names of the users that grants name, by their ids.
pub struct Users(BTreeMap<u32, Vec<String>>);

impl Users {
    /// Looks up the users of all grants: by name in `/etc/passwd`, or by number.
    pub fn of(grants: &Grants) -> Users {
        // Without it, grants by name are for no user.
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
        let mut users = BTreeMap::<u32, Vec<String>>::new();
        for name in grants.iter().filter_map(|grant| grant.user()) {
            if let Some(uid) = named(name) {
                users.entry(uid).or_default().push(name.to_owned());
            }
        }
        Users(users)
    }

    /// How many users grants name.
    pub fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX - 1)
    }

    /// All names by which grants are for a user: a user has several, if grants give its name and its number.
    pub fn names(&self, uid: u32) -> &[String] {
        self.0.get(&uid).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_name_users_by_name_or_number() {
        let grant = |user: &str| format!("[[grant]]\nreferences = ['op://v/*']\nto = {{ user = '{user}' }}\n");
        let text = ["alice", "1001", "1002", "no-such-user"].map(grant).concat();
        let grants = text.parse::<crate::settings::Settings>().unwrap().grants;
        let users = Users::parse(&grants, "root:x:0:0::/:/bin/sh\nalice:x:1001:5::/:\n1002:x:7:7::/:\n");
        assert_eq!((users.names(1001), users.count()), (&["alice".to_owned(), "1001".to_owned()][..], 2));
        // A number that is the name of another user is that user's alone.
        assert_eq!((users.names(7), users.names(1002), users.names(0)), (&["1002".to_owned()][..], &[][..], &[][..]));
    }
}

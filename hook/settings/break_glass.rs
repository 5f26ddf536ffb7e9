//! `[break-glass]`: where an emergency is recorded, and which rotations it requires.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::AbsolutePath;

const DIRECTORY: &str = "/var/lib/oci-secrets";
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// What an outage of 1Password or the KMS allows, and what must be rotated afterwards.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakGlass {
    /// The channel that records every use, separate from the audit trail. Without it, break-glass is disabled.
    pub audit: Option<Channel>,
    /// What becomes of secrets that an emergency used.
    pub rotation: Rotation,
    /// The sealed file, if it is kept on this host: `oci-secrets check` warns before it expires.
    pub sealed: Option<AbsolutePath>,
    /// Where the ledger of these secrets is.
    pub directory: AbsolutePath,
}

impl Default for BreakGlass {
    fn default() -> BreakGlass {
        let directory = AbsolutePath(DIRECTORY.into());
        BreakGlass { audit: None, rotation: Rotation::default(), sealed: None, directory }
    }
}

/// A place for records that is not the one of starts.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// A file, which is appended to.
    File(AbsolutePath),
    /// A namespace of the journal: `LogNamespace=` of systemd.
    JournalNamespace(NamespaceName),
    /// A facility of syslog, none of which has the audit trail.
    SyslogFacility(Facility),
    /// A program that takes a record on its standard input, and ends with 0 when it has it.
    Command(ChannelCommand),
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Channel::File(path) => path.display().fmt(f),
            Channel::JournalNamespace(name) => write!(f, "the journal namespace \"{}\"", name.as_str()),
            Channel::SyslogFacility(facility) => write!(f, "facility {} of syslog", *facility as u8),
            Channel::Command(command) => command.program().display().fmt(f),
        }
    }
}

/// The facilities of syslog that a site may use as it likes, as [RFC 5424](https://www.rfc-editor.org/rfc/rfc5424#section-6.2.1)
/// numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "their names say it")]
pub enum Facility {
    Local0 = 16,
    Local1,
    Local2,
    Local3,
    Local4,
    Local5,
    Local6,
    Local7,
}

/// The name of a journal namespace, which becomes part of a path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NamespaceName(String);

impl NamespaceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NamespaceName {
    type Error = NoNamespace;

    fn try_from(name: String) -> Result<NamespaceName, NoNamespace> {
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if is_name { Ok(NamespaceName(name)) } else { Err(NoNamespace) }
    }
}

/// A program, by its absolute path, and its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct ChannelCommand {
    program: AbsolutePath,
    arguments: Vec<String>,
}

impl ChannelCommand {
    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its arguments.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }
}

impl TryFrom<Vec<String>> for ChannelCommand {
    type Error = NoCommand;

    fn try_from(words: Vec<String>) -> Result<ChannelCommand, NoCommand> {
        let mut words = words.into_iter();
        let program = words.next().ok_or(NoCommand)?;
        let program = AbsolutePath::try_from(std::path::PathBuf::from(program)).map_err(|_| NoCommand)?;
        Ok(ChannelCommand { program, arguments: words.collect() })
    }
}

/// What becomes of secrets that an emergency used.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// How long normal starts may go on with such a secret, from the first of them on.
    #[serde(deserialize_with = "grace")]
    pub grace: Duration,
    /// What happens after that.
    pub then: Overdue,
}

impl Default for Rotation {
    fn default() -> Rotation {
        Rotation { grace: GRACE, then: Overdue::Refuse }
    }
}

/// What a normal start does with a secret whose rotation is overdue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overdue {
    /// The container does not start.
    #[default]
    Refuse,
    /// It starts, with the same warning as before.
    Warn,
}

fn grace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = text.parse::<jiff::SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    duration.ok_or_else(|| de::Error::custom("expected a duration as \"24h\""))
}

/// A text that names no journal namespace.
#[derive(Debug, thiserror::Error)]
#[error("expected the name of a journal namespace, of A-Z a-z 0-9 - _")]
pub struct NoNamespace;

/// Words that are no command.
#[derive(Debug, thiserror::Error)]
#[error("expected the absolute path of a program, and its arguments")]
pub struct NoCommand;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn parse(text: &str) -> Result<BreakGlass, String> {
        let settings = format!("[break-glass]\n{text}").parse::<Settings>();
        settings.map(|settings| settings.break_glass).map_err(|error| error.to_string())
    }

    #[test]
    fn a_channel_is_a_file_a_log_or_a_command() {
        let channel = |text: &str| parse(&format!("audit = {text}")).map(|settings| settings.audit.unwrap());
        assert!(
            matches!(channel("{ file = '/var/log/x' }"), Ok(Channel::File(path)) if *path == *Path::new("/var/log/x"))
        );
        assert!(
            matches!(channel("{ journal-namespace = 'glass' }"), Ok(Channel::JournalNamespace(name)) if name.as_str() == "glass")
        );
        assert!(
            matches!(channel("{ command = ['/bin/x', '-v'] }"), Ok(Channel::Command(command)) if command.arguments() == ["-v"])
        );
        assert!(
            matches!(channel("{ syslog-facility = 'local3' }"), Ok(Channel::SyslogFacility(facility)) if facility as u8 == 19)
        );
        for wrong in [
            "{ syslog-facility = 'authpriv' }",
            "{ file = 'x' }",
            "{ journal-namespace = '../x' }",
            "{ command = [] }",
            "{ command = ['x'] }",
            "{}",
            "{ mail = 'x' }",
        ] {
            assert!(channel(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rotation_is_a_duty_unless_the_settings_say_otherwise() {
        assert_eq!(parse("").unwrap().rotation, Rotation { grace: GRACE, then: Overdue::Refuse });
        let warn = parse("rotation = { grace = '2h', then = 'warn' }").unwrap().rotation;
        assert_eq!(warn, Rotation { grace: Duration::from_secs(7200), then: Overdue::Warn });
        assert!(parse("rotation = { grace = 'soon' }").unwrap_err().contains("expected a duration"));
    }
}

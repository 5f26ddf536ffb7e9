//! `[op]`: how the 1Password CLI is run, and who lets it in.

use std::time::Duration;

use serde::Deserialize;

use super::{AbsolutePath, TokenFile};

const PROGRAM: &str = "/usr/bin/op";

/// How long one run of `op` may take, unless the settings say otherwise: someone may have to unlock the app.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How to run the 1Password CLI.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Keys")]
pub struct Op {
    /// The program.
    pub program: AbsolutePath,
    /// Who lets it in.
    pub unlock: OpUnlock,
    /// How long one run may take.
    pub timeout: Duration,
}

/// Who lets the 1Password CLI in.
#[derive(Clone, Debug, PartialEq)]
pub enum OpUnlock {
    /// The 1Password app on the caller's desktop.
    App {
        /// Which of its accounts, as `op --account` takes it.
        account: Option<String>,
    },
    /// The token of a service account.
    ServiceAccount {
        /// The file with the token.
        token_file: TokenFile,
    },
}

impl Default for Op {
    fn default() -> Op {
        let unlock = OpUnlock::App { account: None };
        Op { program: AbsolutePath(PROGRAM.into()), unlock, timeout: TIMEOUT }
    }
}

/// `[op]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Keys {
    program: Option<AbsolutePath>,
    account: Option<String>,
    service_account_token_file: Option<AbsolutePath>,
    #[serde(default, deserialize_with = "timeout")]
    timeout: Option<Duration>,
}

impl TryFrom<Keys> for Op {
    type Error = OpKeysError;

    fn try_from(keys: Keys) -> Result<Op, OpKeysError> {
        let unlock = match (keys.account, keys.service_account_token_file) {
            (Some(_), Some(_)) => return Err(OpKeysError::Both),
            (Some(account), None) if !is_account(&account) => return Err(OpKeysError::Account),
            (account, None) => OpUnlock::App { account },
            (None, Some(token_file)) => OpUnlock::ServiceAccount { token_file: token_file.into() },
        };
        let default = Op::default();
        let program = keys.program.unwrap_or(default.program);
        Ok(Op { program, unlock, timeout: keys.timeout.unwrap_or(default.timeout) })
    }
}

fn timeout<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    super::duration::deadline(deserializer).map(Some)
}

/// A sign-in address, a shorthand, an e-mail address or an id: none can be taken for an option.
fn is_account(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_@+:/".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(allowed)
}

/// Why the keys do not say who lets `op` in.
#[derive(Debug, thiserror::Error)]
enum OpKeysError {
    #[error(
        "account is for the app, a service account's token has its own: name one of account and service-account-token-file"
    )]
    Both,
    #[error("account: expected a sign-in address as my.1password.com, an e-mail address or an id")]
    Account,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn op(text: &str) -> Result<Op, String> {
        let settings = format!("[op]\n{text}").parse::<Settings>().map_err(|error| error.to_string())?;
        Ok(settings.op.unwrap())
    }

    #[test]
    fn an_empty_table_asks_the_app() {
        assert_eq!(op("").unwrap(), Op::default());
        let asked = op("account = 'my.1password.com'\nprogram = '/usr/local/bin/op'\ntimeout = '90s'").unwrap();
        assert_eq!(asked.unlock, OpUnlock::App { account: Some("my.1password.com".into()) });
        assert_eq!((asked.program.to_str(), asked.timeout), (Some("/usr/local/bin/op"), Duration::from_secs(90)));
    }

    #[test]
    fn a_service_account_needs_no_app() {
        let service = op("service-account-token-file = '/etc/oci-secrets/op-token'").unwrap();
        assert!(matches!(service.unlock, OpUnlock::ServiceAccount { .. }));
        let both = "service-account-token-file = '/t'\naccount = 'my.1password.com'";
        assert!(op(both).unwrap_err().contains("name one of account and service-account-token-file"));
    }

    #[test]
    fn no_account_is_an_option() {
        for account in ["--config=/tmp/evil", "-a", "", "a b", "a\nb", "a=b"] {
            let refusal = op(&format!("account = {account:?}")).unwrap_err();
            assert!(refusal.contains("expected a sign-in address"), "{account}: {refusal}");
        }
    }
}

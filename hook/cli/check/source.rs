//! Whether sealed values can be fetched, and with how little.

use super::static_token;
use crate::cli::block_on;
use crate::cli::finding::Finding;
use crate::fault::AnyFault;
use crate::retry::Deadline;
use crate::settings::{OpUnlock, Settings, SourceName};
use crate::source::connect::Vault;
use crate::source::op::{Op, Session, VERSION_MIN};
use crate::source::{SourceError, chosen};

/// What is wrong with the choice of a source.
pub(super) fn choice(settings: &Settings) -> Option<Finding> {
    let error = match (chosen(settings), &settings.connect) {
        (Err(error), _) => error,
        (Ok(SourceName::Connect), None) => SourceError::NoConnect,
        (Ok(_), _) => return None,
    };
    Some(Finding::problem("source", &error))
}

/// Whether `op` can be run and trusted. It is not asked for anything: that would cost a share of its limit, or call a person.
pub(super) fn op(settings: &Settings) -> Vec<Finding> {
    let is_chosen = matches!(chosen(settings), Ok(SourceName::Op));
    let Some(op) = settings.op.clone().or_else(|| is_chosen.then(Default::default)) else { return Vec::new() };
    let failed = |error| vec![Finding::problem("op", &SourceError::Op(error))];
    let program = match Op::open(&op, Some(Session::of(|_| None))) {
        Ok(program) => program,
        Err(error) => return failed(error),
    };
    let version = block_on(settings, async |_: Deadline| {
        let patience = Deadline::after(settings.deliver.deadline);
        program.version(patience).await.map_err(|error| AnyFault::from(SourceError::Op(error)))
    });
    let version = match version {
        Ok(version) => version,
        Err(error) => return vec![Finding::problem("op", &*error)],
    };
    let mut detail = format!("{} {version}", op.program.display());
    detail.push_str(match &op.unlock {
        OpUnlock::ServiceAccount { .. } => ", by the token of a service account, which was not tried",
        OpUnlock::App { .. } => ", by the 1Password app, which was not tried; the hook cannot unlock it",
    });
    let conditions = static_token::conditions(settings, &program);
    let numbers: Vec<u32> = version.split(['.', '-']).map_while(|number| number.parse().ok()).collect();
    if numbers < VERSION_MIN.to_vec() {
        let advice = "update it: before 2.32.1 it can end as if all was well when 1Password failed";
        return [Finding::warning("op", detail, advice.into())].into_iter().chain(conditions).collect();
    }
    [Finding::ok("op", detail)].into_iter().chain(conditions).collect()
}

/// What the Connect token sees beyond what the grants use, and the command for a token that does not.
pub(super) fn unused_vaults(settings: &Settings, vaults: &[Vault]) -> Option<Finding> {
    let is_used = |vault: &&Vault| settings.grants.name_vault(&vault.name) || settings.grants.name_vault(&vault.id);
    let (used, unused): (Vec<&Vault>, Vec<&Vault>) = vaults.iter().partition(is_used);
    let names = |vaults: &[&Vault]| {
        let mut names: Vec<String> = vaults.iter().map(|vault| vault.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    if unused.is_empty() {
        return None;
    }
    let detail = format!("the token also sees {}, which no grant names", names(&unused).join(", "));
    let narrower: String =
        names(&used).iter().map(|name| format!(" --vault {}", quoted(&format!("{name},r")))).collect();
    let advice = match narrower.as_str() {
        "" => "grant what containers need of them, and make a token that sees no others".to_owned(),
        vaults => {
            format!("make a narrower token: op connect token create NAME --server SERVER{vaults} --expires-in 720h")
        }
    };
    Some(Finding::warning("connect", detail, advice))
}

/// A word of a command line.
fn quoted(word: &str) -> String {
    let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || ",.-_".contains(c));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_word_of_the_command() {
        assert_eq!(quoted("AgentVault,r"), "AgentVault,r");
        assert_eq!(quoted("My Vault,r"), "'My Vault,r'");
        assert_eq!(quoted("it's $(x),r"), r"'it'\''s $(x),r'");
    }
}

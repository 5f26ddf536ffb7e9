//! `oci-secrets break-glass close`: ends an emergency.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::emergency::end;
use crate::break_glass::ledger::Ledger;
use crate::break_glass::store::Emergency;
use crate::break_glass::time;
use crate::cli::write_output;
use crate::fault::AnyFault;
use crate::settings::Settings;

const EXAMPLE: &str = "\
Example: 1Password answers again

  sudo oci-secrets break-glass close | tee pending.txt";

/// End the emergency that is open, and list the secrets that must be rotated.
///
/// The secrets are destroyed at once. The grace period of each that was used begins now.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(in crate::cli) struct Arguments {}

pub(super) fn run(_: &Arguments, settings: &Settings) -> Result<ExitCode, AnyFault> {
    let mut text = match Emergency::current()? {
        None => "no emergency is open\n".to_owned(),
        Some(emergency) => {
            end(&emergency, settings)?;
            format!("emergency {} is over\n", emergency.account().id)
        }
    };
    let ledger = Ledger::read(&settings.break_glass.directory)?;
    for (reference, pending) in &ledger.pending {
        let due = pending.due.as_ref().map(|due| format!(" before {}", time(due))).unwrap_or_default();
        let _ = writeln!(text, "rotate{due}: {reference}");
    }
    write_output(text.as_bytes())
}

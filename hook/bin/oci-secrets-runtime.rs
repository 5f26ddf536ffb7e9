//! `oci-secrets-runtime`: runc, for engines that cannot be told of hooks.

use std::process::ExitCode;

fn main() -> ExitCode {
    oci_secrets::runtime::run()
}

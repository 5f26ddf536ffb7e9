//! `oci-secrets-runtime`: an OCI runtime that adds the hook and runs runc, for engines without hook support.

use std::process::ExitCode;

fn main() -> ExitCode {
    oci_secrets::runtime::run()
}

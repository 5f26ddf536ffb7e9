//! `oci-secrets-hook`: the OCI hook.
fn main() {}

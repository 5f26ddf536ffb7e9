//! `oci-secrets`: the operator's command.
fn main() {}

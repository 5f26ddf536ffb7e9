//! `oci-secrets-gateway`: 1Password Connect, for pipelines that prove who they are.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Zeroes what is freed: items and tokens pass through buffers of libraries that are not ours to zero.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    oci_secrets::gateway::run()
}

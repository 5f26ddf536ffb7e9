//! `oci-secrets-gateway`: gives CI jobs with identity tokens access to 1Password Connect.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Zeroes freed memory: libraries copy items and tokens into buffers that this program cannot zero.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    oci_secrets::gateway::run()
}

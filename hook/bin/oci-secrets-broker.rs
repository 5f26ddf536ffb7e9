//! `oci-secrets-broker`: resolves secrets on behalf of the hook.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Zeroes freed memory: libraries copy items and tokens into buffers that this program cannot zero.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    oci_secrets::broker::run()
}

//! `oci-secrets-pkcs11`: loads the PKCS#11 module of an HSM for the hook, which is a static binary and cannot load one.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Zeroes freed memory: libraries copy data keys into buffers that this program cannot zero.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    oci_secrets::pkcs11::helper::run()
}

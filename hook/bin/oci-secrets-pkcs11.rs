//! `oci-secrets-pkcs11`: loads the PKCS#11 module of an HSM for the hook, which is a static binary and cannot.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Zeroes what is freed: libraries copy data keys into buffers that are not ours to zero.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    oci_secrets::pkcs11::helper::run()
}

//! `oci-secrets`: the operator's and developer's command.

use std::alloc::System;
use std::process::ExitCode;

use oci_secrets::{broker, cli, gateway, hook, runtime};
use zeroizing_alloc::ZeroAlloc;

/// Zeroes freed memory: libraries copy secrets into buffers that this program cannot zero.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    cli::run(&[
        (hook::PROGRAM, hook::HELP),
        (runtime::PROGRAM, runtime::HELP),
        (broker::PROGRAM, broker::HELP),
        (gateway::PROGRAM, gateway::HELP),
    ])
}

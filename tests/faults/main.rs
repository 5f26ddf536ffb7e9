//! A start during which one system call fails: the container has all of its secrets or does not start, nothing is left on the host, and
//! the message says what failed.
//!
//! A sample of the calls and errors, or with `OCI_SECRETS_ALL_FAULTS` all of them. `tests/break_glass` does the same for
//! `break-glass open`. It requires root and strace.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking, its helpers too"
)]

mod broker;
mod hook;
mod limits;
#[path = "../support/mod.rs"]
mod support;
mod world;
mod wrapper;

//! The broker: what it delivers, what the hook reports when it does not, and what neither of them lets others do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking, its helpers too"
)]

#[allow(dead_code, reason = "each test uses a part of it")]
#[path = "../nri_protocol/runtime.rs"]
mod nri_runtime;
#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod cluster;
mod day;
mod deaths;
mod descriptors;
mod fakes;
mod fuse;
mod identity;
mod live;
mod live_failures;
mod outage;
mod peers;
mod records;
mod revoke;
mod scene;
mod sharing;
mod spared;
mod starts;
mod systemd;
mod update_examples;
mod users;
mod world;

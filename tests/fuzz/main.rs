//! Hostile input for every parser and filter, generated.
//!
//! `cargo test --test fuzz` makes the same inputs for each property each time. A failure prints the smallest input that it finds.
//!
//! With `BOLERO_RANDOM_TEST_TIME_MS=60000`, each property is tested for a minute with new inputs, as before a release. Then a failure
//! also prints the seed to repeat it by: `BOLERO_RANDOM_SEED=… cargo test --test fuzz NAME`. What is found is fixed, and becomes a test
//! next to the code.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod break_glass;
mod broker;
mod connect;
mod container;
mod engine;
mod files;
mod gateway;
mod generate;
mod grants;
mod nri;
mod op;
mod sealed;
mod tokens;

/// What tests put where a secret would be.
const CANARY: &str = "canary";

//! Hostile input for every parser and filter, generated.
//!
//! `cargo test --test fuzz` makes a fixed number of inputs for each property, whatever the load of the machine. A failure prints the
//! smallest input that it finds and the seed to repeat it by: `BOLERO_RANDOM_SEED=… cargo test --test fuzz NAME`. With
//! `BOLERO_RANDOM_ITERATIONS=1000000000 BOLERO_RANDOM_TEST_TIME_MS=60000` it looks for a minute at each. What it finds is fixed, and
//! becomes a test next to the code.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

mod broker;
mod gateway;
mod generate;
mod nri;
mod tokens;

/// What tests put where a secret would be.
const CANARY: &str = "canary";

//! `oci-secrets-gateway`: the reading part of 1Password Connect, for pipelines and pods that prove their identity.
//!
//! A client sends the identity token that its platform signed for it ([`token`]) where Connect expects its own. The gateway verifies
//! it with the issuer's keys ([`issuer`], [`key`]), finds the rules that admit its claims ([`rule`]), requests the data from Connect
//! with a token that only the gateway has ([`upstream`]), and removes what the rules do not name ([`scope`]). Every decision is
//! recorded ([`record`]). Start reading at [`service`], which is the story of one request.
//!
//! One thread does everything, so that nothing needs a lock.

pub mod answer;
pub mod claim;
pub mod client_network;
pub mod connections;
pub mod denial;
pub mod error;
pub mod fetch;
pub mod filter;
pub mod issuer;
pub mod json;
pub mod key;
pub mod limit;
pub mod list;
pub mod loaded;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod platform;
pub mod program;
pub mod query;
pub mod record;
pub mod response;
pub mod route;
pub mod rule;
pub mod scope;
pub mod server;
pub mod service;
pub mod service_user;
pub mod settings;
pub mod slots;
pub mod tls;
pub mod token;
pub mod upstream;

pub use self::log::PROGRAM;
pub use self::program::{HELP, run};

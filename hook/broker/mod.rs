//! The broker: one daemon on a host that resolves secrets on behalf of the hook.

pub mod client;
pub mod protocol;
pub mod source;
pub mod wire;

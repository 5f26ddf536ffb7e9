//! The process's one TLS provider: ring.
//!
//! reqwest and Google's clients are built without a provider of their own. aws-lc-rs, their usual default, seeds its entropy for
//! 23 to 38 ms in every process, which a container start would wait for.

/// Makes ring the provider of every TLS connection of this process. Later calls change nothing.
pub fn install() {
    // The only error is that a provider is installed already, and no other is in the tree.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

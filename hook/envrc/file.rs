//! The name and the size of an `.envrc`.

/// The default file.
pub const ENVRC: &str = ".envrc";

/// The largest file, in bytes.
pub const ENVRC_BYTES_MAX: u64 = 1 << 20;

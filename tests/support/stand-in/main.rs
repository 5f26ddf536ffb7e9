//! The stand-ins.
fn main() {}

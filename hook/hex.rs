//! Hexadecimal digits, in lower case: of bytes, and of random ids.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};

/// The digits of these bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// 16 digits by which something differs from everything else, in this process and in others.
pub fn random_id() -> String {
    // The hasher's keys are random bytes of the kernel. The seed of fastrand is a time, which other processes can have, too.
    format!("{:016x}", RandomState::new().hash_one(()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_differ() {
        let ids = || (0..1000).map(|_| random_id()).collect::<Vec<_>>();
        let others: Vec<_> = (0..4).map(|_| std::thread::spawn(ids)).collect();
        let all: BTreeSet<String> = others.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.len(), 4000);
        assert!(all.iter().all(|id| id.len() == 16));
    }

    #[test]
    fn each_byte_has_two_digits() {
        assert_eq!(hex(&[0x00, 0x0f, 0xa0, 0xff]), "000fa0ff");
    }
}

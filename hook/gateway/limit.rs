//! How often somebody may come: a bucket of tokens for each.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;

use tokio::time::Instant;

/// The most that are remembered. Beyond it, those who have been away long enough to have a full bucket are forgotten first.
const KEYS_MAX: usize = 10_000;

/// A bucket that fills over time.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn full(burst: f64) -> Bucket {
        Bucket { left: burst, at: Instant::now() }
    }

    /// Takes one out, if there is one, with `rate` coming in each second until it holds `burst`.
    pub fn take(&mut self, rate: f64, burst: f64) -> bool {
        let now = Instant::now();
        self.left = (self.left + rate * (now - self.at).as_secs_f64()).min(burst);
        self.at = now;
        let is_enough = self.left >= 1.0;
        self.left -= f64::from(u8::from(is_enough));
        is_enough
    }
}

/// A bucket for each key.
pub struct Buckets<K> {
    rate: f64,
    burst: f64,
    buckets: RefCell<HashMap<K, Bucket>>,
}

impl<K: Hash + Eq> Buckets<K> {
    /// Buckets that hold `burst` and get `rate` each second.
    pub fn new(rate: u32, burst: u32) -> Buckets<K> {
        Buckets { rate: rate.into(), burst: burst.into(), buckets: RefCell::default() }
    }

    /// Takes one out of the bucket of `key`, if there is one.
    pub fn take(&self, key: K) -> bool {
        let mut buckets = self.buckets.borrow_mut();
        if buckets.len() >= KEYS_MAX && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| bucket.left + self.rate * bucket.at.elapsed().as_secs_f64() < self.burst);
            // A crowd of strangers: nobody gets more by having been forgotten than one of them has.
            if buckets.len() >= KEYS_MAX {
                return false;
            }
        }
        buckets.entry(key).or_insert_with(|| Bucket::full(self.burst)).take(self.rate, self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_a_burst_and_then_as_fast_as_it_fills() {
        let mut bucket = Bucket::full(2.0);
        assert_eq!([bucket.take(0.0, 2.0), bucket.take(0.0, 2.0), bucket.take(0.0, 2.0)], [true, true, false]);
        assert!(bucket.take(1e9, 2.0));
    }

    #[test]
    fn each_has_a_bucket_of_its_own() {
        let buckets = Buckets::new(1, 1);
        assert!(buckets.take("a") && buckets.take("b"));
        assert!(!buckets.take("a"));
    }

    #[test]
    fn remembers_only_so_many() {
        let buckets = Buckets::new(1, 1);
        assert!((0..KEYS_MAX).all(|key| buckets.take(key)));
        assert!(!buckets.take(KEYS_MAX));
        assert_eq!(buckets.buckets.borrow().len(), KEYS_MAX);
    }
}

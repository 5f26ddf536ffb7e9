//! Rate limits: one token bucket for each key.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The most buckets that are kept. Beyond it, full ones are dropped: they hold no information.
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

    /// Takes one token out, if there is one, with `rate` coming in each second until it holds `burst`.
    pub fn take(&mut self, rate: f64, burst: f64) -> bool {
        let now = Instant::now();
        self.left = (self.left + rate * (now - self.at).as_secs_f64()).min(burst);
        self.at = now;
        let is_enough = self.left >= 1.0;
        self.left -= f64::from(u8::from(is_enough));
        is_enough
    }

    /// The time until it holds a token.
    pub fn wait(&self, rate: f64) -> Duration {
        let missing = 1.0 - (self.left + rate * self.at.elapsed().as_secs_f64());
        Duration::from_secs_f64((missing / rate).max(0.0))
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

    /// Takes one token out of the bucket of `key`, if there is one.
    pub fn take(&self, key: K) -> bool {
        let mut buckets = self.buckets.borrow_mut();
        if buckets.len() >= KEYS_MAX && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| bucket.left + self.rate * bucket.at.elapsed().as_secs_f64() < self.burst);
            // So many new keys at the same time are a flood: a dropped bucket must not come back full.
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
    fn allows_a_burst_and_then_the_rate() {
        let mut bucket = Bucket::full(2.0);
        assert_eq!([bucket.take(0.0, 2.0), bucket.take(0.0, 2.0), bucket.take(0.0, 2.0)], [true, true, false]);
        assert!(bucket.take(1e9, 2.0));
    }

    #[test]
    fn each_key_has_its_own_bucket() {
        let buckets = Buckets::new(1, 1);
        assert!(buckets.take("a") && buckets.take("b"));
        assert!(!buckets.take("a"));
    }

    #[test]
    fn keeps_a_bounded_number_of_buckets() {
        let buckets = Buckets::new(1, 1);
        assert!((0..KEYS_MAX).all(|key| buckets.take(key)));
        assert!(!buckets.take(KEYS_MAX));
        assert_eq!(buckets.buckets.borrow().len(), KEYS_MAX);
    }
}

//! How many requests the source gets within an hour.
//!
//! The requests of each minute are counted, so that no period of 60 minutes has more than the limit. A restart of the broker forgets them.

use std::collections::VecDeque;
use std::time::Instant;

const MINUTES: u64 = 60;

/// The requests of the last hour, and their limit.
pub(super) struct Budget {
    limit: Option<u32>,
    begin: Instant,
    /// The requests of each minute since `begin`, oldest first.
    minutes: VecDeque<(u64, u64)>,
}

impl Budget {
    /// A budget of which nothing is spent.
    pub(super) fn new(limit: Option<u32>, begin: Instant) -> Budget {
        Budget { limit, begin, minutes: VecDeque::new() }
    }

    /// Replaces the limit; what was spent stays.
    pub(super) fn set_limit(&mut self, limit: Option<u32>) {
        self.limit = limit;
    }

    pub(super) fn limit(&self) -> Option<u32> {
        self.limit
    }

    /// The limit, if it is reached.
    pub(super) fn exhausted(&mut self, now: Instant) -> Option<u32> {
        let spent = self.spent(now);
        self.limit.filter(|limit| spent >= u64::from(*limit))
    }

    pub(super) fn spend(&mut self, now: Instant, requests: u64) {
        let minute = self.minute(now);
        match self.minutes.back_mut() {
            Some((last, count)) if *last >= minute => *count += requests,
            _ if requests > 0 => self.minutes.push_back((minute, requests)),
            _ => {}
        }
    }

    /// The requests of the last hour; of the minute that began it, all.
    pub(super) fn spent(&mut self, now: Instant) -> u64 {
        let minute = self.minute(now);
        while self.minutes.front().is_some_and(|(first, _)| first + MINUTES < minute) {
            self.minutes.pop_front();
        }
        self.minutes.iter().map(|(_, count)| count).sum()
    }

    fn minute(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begin).as_secs() / 60
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_hour_has_more_than_the_limit() {
        let begin = Instant::now();
        let mut budget = Budget::new(Some(10), begin);
        let mut times = Vec::new();
        for second in 0..3 * 60 * 60 {
            let now = begin + Duration::from_secs(second);
            if budget.exhausted(now).is_none() {
                budget.spend(now, 1);
                times.push(second);
            }
        }
        assert!(times.len() > 20, "it recovers");
        for (index, first) in times.iter().enumerate() {
            let within = times.iter().skip(index).take_while(|time| **time < first + 3600).count();
            assert!(within <= 10, "{within} within an hour from {first} s");
        }
        assert_eq!(budget.exhausted(begin + Duration::from_secs(60 * 60 * 24)), None);
    }

    #[test]
    fn without_a_limit_it_only_counts() {
        let begin = Instant::now();
        let mut budget = Budget::new(None, begin);
        budget.spend(begin, 1_000_000);
        assert_eq!((budget.exhausted(begin), budget.spent(begin)), (None, 1_000_000));
        budget.set_limit(Some(5));
        assert_eq!(budget.exhausted(begin), Some(5));
    }
}

//! The numbers that an org counts in: a few bytes each, changed from anywhere.
//!
//! *Why not the library's counters:* each of those carries name, meaning and labels of its own, some 700 bytes. An org has more than
//! a hundred series, and a process a thousand orgs.

use prometheus::core::{Atomic, AtomicF64, AtomicU64};

/// A count since the process started.
#[derive(Debug)]
pub struct Count(AtomicU64);

impl Count {
    pub fn inc(&self) {
        self.inc_by(1);
    }

    pub fn inc_by(&self, more: u64) {
        self.0.inc_by(more);
    }

    pub(super) fn shown(&self) -> Shown<'_> {
        // Exact up to 2^53.
        Shown::Value(self.0.get() as f64)
    }
}

impl Default for Count {
    fn default() -> Count {
        Count(AtomicU64::new(0))
    }
}

/// A measurement, or a sum of them; 0 until it is first set.
#[derive(Debug)]
pub struct Level(AtomicF64);

impl Level {
    pub fn set(&self, value: f64) {
        self.0.set(value);
    }

    pub fn inc_by(&self, more: f64) {
        self.0.inc_by(more);
    }

    pub(super) fn shown(&self) -> Shown<'_> {
        Shown::Value(self.0.get())
    }
}

impl Default for Level {
    fn default() -> Level {
        Level(AtomicF64::new(0.0))
    }
}

/// How measurements are distributed. Sum and buckets are read one after the other: a page may show one of them a measurement ahead.
#[derive(Debug)]
pub struct Spread {
    /// Upper bounds, ascending.
    bounds: &'static [f64],
    /// One for each bound, and one for what is above the last; not cumulative.
    counts: Box<[AtomicU64]>,
    sum: AtomicF64,
}

impl Spread {
    pub(super) fn within(bounds: &'static [f64]) -> Spread {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Spread { bounds, counts, sum: AtomicF64::new(0.0) }
    }

    pub fn observe(&self, value: f64) {
        self.observe_all(value, 1);
    }

    /// The same value so many times.
    pub fn observe_all(&self, value: f64, times: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.inc_by(times);
            self.sum.inc_by(value * times as f64);
        }
    }

    pub(super) fn shown(&self) -> Shown<'_> {
        Shown::Spread(self)
    }

    /// As the library shows it.
    pub(super) fn histogram(&self) -> prometheus::proto::Histogram {
        let mut shown = prometheus::proto::Histogram::default();
        let mut cumulative = 0;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (index, count) in self.counts.iter().enumerate() {
            cumulative += count.get();
            if let Some(bound) = self.bounds.get(index) {
                let mut bucket = prometheus::proto::Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(cumulative);
                buckets.push(bucket);
            }
        }
        shown.set_bucket(buckets);
        shown.set_sample_count(cumulative);
        shown.set_sample_sum(self.sum.get());
        shown
    }
}

/// What a number says on a page.
#[derive(Clone, Copy)]
pub(super) enum Shown<'a> {
    Value(f64),
    Spread(&'a Spread),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let spread = Spread::within(&[1.0, 5.0]);
        spread.observe(1.0);
        spread.observe_all(5.0, 2);
        spread.observe(7.5);
        let shown = spread.histogram();
        let cumulative: Vec<u64> =
            shown.get_bucket().iter().map(prometheus::proto::Bucket::cumulative_count).collect();
        assert_eq!((cumulative, shown.get_sample_count()), (vec![1, 3], 4));
        assert_eq!(shown.get_sample_sum().to_bits(), 18.5_f64.to_bits());
    }
}

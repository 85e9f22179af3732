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

    pub(super) fn bounds(&self) -> &'static [f64] {
        self.bounds
    }

    /// How many measurements there were up to each bound, then all of them.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts.iter().scan(0, |sum, count| {
            *sum += count.get();
            Some(*sum)
        })
    }

    pub(super) fn sum(&self) -> f64 {
        self.sum.get()
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
        assert_eq!(spread.cumulative().collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(spread.sum().to_bits(), 18.5_f64.to_bits());
    }
}

//! How a line of the table becomes a metric: what the four kinds of families have in common, and the macro that reads the table.

use std::collections::HashMap;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// Stands before every name.
pub const NAMESPACE: &str = "pulumi_audit";

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Definition {
    /// Without [`NAMESPACE`].
    pub name: &'static str,
    pub help: &'static str,
    pub labels: &'static [&'static str],
    /// Upper bounds; of histograms only.
    pub buckets: &'static [f64],
}

/// A metric with all its label values.
pub trait Family: Sized {
    fn define(registry: &Registry, definition: &Definition) -> Self;

    /// Removes every series that has all of these labels; none when the family lacks one of them.
    fn remove(&self, labels: &[(&str, &str)]);
}

pub fn register(registry: &Registry, collector: Box<dyn Collector>) {
    in_order(registry.register(collector));
}

/// # Panics
/// When a name is malformed or stands in the table twice: a mistake that no run of the program, and no test, gets past.
#[expect(
    clippy::expect_used,
    reason = "the table is constant, and every test that makes metrics registers it"
)]
fn in_order<T>(made: prometheus::Result<T>) -> T {
    made.expect("names and labels are well formed, and stand in the table once")
}

macro_rules! family {
    ($kind:ty, $options:expr) => {
        impl Family for $kind {
            fn define(registry: &Registry, definition: &Definition) -> Self {
                let options = $options(definition);
                let family = in_order(<$kind>::new(options, definition.labels));
                register(registry, Box::new(family.clone()));
                family
            }

            fn remove(&self, labels: &[(&str, &str)]) {
                remove(self, labels);
            }
        }
    };
}

fn options(definition: &Definition) -> Opts {
    Opts::new(definition.name, definition.help).namespace(NAMESPACE)
}

fn histogram_options(definition: &Definition) -> HistogramOpts {
    HistogramOpts::from(options(definition)).buckets(definition.buckets.to_vec())
}

family!(GaugeVec, options);
family!(IntCounterVec, options);
family!(CounterVec, options);
family!(HistogramVec, histogram_options);

fn remove<T: MetricVecBuilder>(family: &MetricVec<T>, labels: &[(&str, &str)]) {
    for shown in family.collect() {
        for metric in shown.get_metric() {
            let have: HashMap<&str, &str> =
                metric.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
            if labels.iter().all(|(name, value)| have.get(name) == Some(value)) {
                // Gone already is as good.
                drop(family.remove(&have));
            }
        }
    }
}

macro_rules! families {
    ($($field:ident: $kind:ty, $name:literal [$($label:literal),*] $(within $buckets:expr)?, $help:literal;)*) => {
        struct Families { $($field: $kind,)* }

        /// The table itself: what the reference is made from.
        pub const DEFINITIONS: &[family::Definition] = &[$(
            family::Definition {
                name: $name,
                help: $help,
                labels: &[$($label),*],
                buckets: families!(@buckets $($buckets)?),
            },
        )*];

        impl Families {
            fn new(registry: &Registry) -> Families {
                let mut definitions = DEFINITIONS.iter();
                // Fields and definitions come from the same lines, in the same order.
                $(let $field = families!(@define $kind, registry, definitions);)*
                Families { $($field,)* }
            }

            /// Removes every series with all of these labels.
            fn remove(&self, labels: &[(&str, &str)]) {
                $(Family::remove(&self.$field, labels);)*
            }
        }
    };
    (@buckets) => { &[] };
    (@buckets $buckets:expr) => { $buckets };
    (@define $kind:ty, $registry:ident, $definitions:ident) => {
        match $definitions.next() {
            Some(definition) => <$kind as Family>::define($registry, definition),
            None => unreachable!("every field has its definition"),
        }
    };
}
pub(super) use families;

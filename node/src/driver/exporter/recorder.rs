//! A recorder for the `metrics` crate that renders Prometheus' text form: counters and gauges, no histograms.
//!
//! The only label that it knows is `reason`, with words of this program: no metric can name a peer, a queue or a client,
//! whoever records it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// The one label.
pub(crate) const LABEL: &str = "reason";
/// Metrics and reasons at most; more are not recorded.
const MAX_SERIES: usize = 512;

/// A handle to what was recorded.
#[derive(Clone, Default)]
pub(crate) struct Recorded(Arc<Mutex<Families>>);

type Families = BTreeMap<String, Family>;

#[derive(Default)]
struct Family {
    help: String,
    kind: Kind,
    series: BTreeMap<Option<String>, Arc<AtomicU64>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Counter,
    Gauge,
}

impl Recorded {
    fn families(&self) -> MutexGuard<'_, Families> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self, kind: Kind, name: &KeyName, unit: Option<Unit>, help: &str) {
        let mut families = self.families();
        let family = families.entry(name.as_str().to_owned()).or_default();
        family.kind = kind;
        family.help = match unit {
            Some(unit) if unit != Unit::Count => format!("{help}, in {}.", unit.as_str()),
            _ => format!("{help}."),
        };
    }

    /// The place of a series, none for one with labels that aren't ours, or one too many.
    fn series(&self, kind: Kind, key: &Key) -> Option<Arc<AtomicU64>> {
        let mut reason = None;
        for label in key.labels() {
            let ours = label.key() == LABEL && label.value().bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            if !ours {
                return None;
            }
            reason = Some(label.value().to_owned());
        }
        let mut families = self.families();
        if families.values().map(|family| family.series.len()).sum::<usize>() >= MAX_SERIES {
            return None;
        }
        let family = families.entry(key.name().to_owned()).or_default();
        family.kind = kind;
        Some(Arc::clone(family.series.entry(reason).or_default()))
    }

    /// All of it in Prometheus' text form, version 0.0.4, sorted by name.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        for (name, family) in self.families().iter().filter(|(_, family)| !family.series.is_empty()) {
            let kind = if family.kind == Kind::Counter { "counter" } else { "gauge" };
            // Writing to a string doesn't fail.
            let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
            for (reason, bits) in &family.series {
                let _ = match reason {
                    Some(reason) => write!(text, "{name}{{{LABEL}=\"{reason}\"}} "),
                    None => write!(text, "{name} "),
                };
                let bits = bits.load(Ordering::Relaxed);
                let _ = match family.kind {
                    Kind::Counter => writeln!(text, "{bits}"),
                    Kind::Gauge => writeln!(text, "{}", f64::from_bits(bits)),
                };
            }
        }
        text
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(Kind::Counter, &name, unit, &help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(Kind::Gauge, &name, unit, &help);
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.series(Kind::Counter, key).map_or_else(Counter::noop, Counter::from_arc)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.series(Kind::Gauge, key).map_or_else(Gauge::noop, Gauge::from_arc)
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, describe_counter, describe_gauge, gauge, with_local_recorder};

    use super::*;

    #[test]
    fn what_is_recorded_is_rendered_and_nothing_with_another_label() {
        let recorded = Recorded::default();
        with_local_recorder(&recorded, || {
            describe_gauge!("posta_free_bytes", Unit::Bytes, "Free space");
            describe_counter!("posta_dropped_total", Unit::Count, "Packets dropped");
            describe_counter!("posta_never_total", "Never recorded");
            gauge!("posta_free_bytes").set(1.5);
            counter!("posta_dropped_total", "reason" => "refused").absolute(3);
            counter!("posta_dropped_total", "reason" => "delay_full").absolute(0);
            counter!("posta_dropped_total", "peer" => "abc").absolute(1);
            counter!("posta_dropped_total", "reason" => "192.0.2.1:4433").absolute(1);
            gauge!("posta_links", "relay" => "abc").set(1.0);
        });
        let expected = "# HELP posta_dropped_total Packets dropped.\n# TYPE posta_dropped_total counter\n\
            posta_dropped_total{reason=\"delay_full\"} 0\nposta_dropped_total{reason=\"refused\"} 3\n\
            # HELP posta_free_bytes Free space, in bytes.\n# TYPE posta_free_bytes gauge\nposta_free_bytes 1.5\n";
        assert_eq!(recorded.render(), expected);
    }

    #[test]
    fn series_are_bounded() {
        let recorded = Recorded::default();
        with_local_recorder(&recorded, || {
            for n in 0..2 * MAX_SERIES {
                counter!(format!("posta_{n}_total")).absolute(1);
            }
        });
        assert_eq!(recorded.render().lines().filter(|line| !line.starts_with('#')).count(), MAX_SERIES);
    }
}

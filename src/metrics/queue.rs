//! Which objects wait for a reconcile, and since when.
//!
//! Owns the difference between waiting and resting: an object that shall be looked at again after a while does not wait
//! before that time has come. Knows no kind. Invariant: an event costs O(log n), a scrape what became due since the last one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// The objects of one kind that wait. Clones share it.
#[derive(Clone, Default)]
pub struct Queue {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    /// From when on each one waits, by namespace and name.
    since: HashMap<Arc<str>, Instant>,
    /// Those that wait now, the oldest first.
    due: BTreeSet<(Instant, Arc<str>)>,
    /// Those that rest until then.
    later: BTreeSet<(Instant, Arc<str>)>,
}

impl Queue {
    /// The object shall be looked at now.
    pub fn add(&self, namespace: &str, name: &str) {
        self.lock().add(&key(namespace, name), Instant::now());
    }

    /// The object shall be looked at after `pause`, if not before.
    pub fn add_after(&self, namespace: &str, name: &str, pause: Duration) {
        let now = Instant::now();
        // What is further ahead than the clock can say is never due.
        if let Some(at) = now.checked_add(pause) {
            self.lock().add_at(&key(namespace, name), at, now);
        }
    }

    /// Its reconcile begins, or it is gone.
    pub fn remove(&self, namespace: &str, name: &str) {
        self.lock().remove(&key(namespace, name));
    }

    /// How many wait, and how long the oldest has.
    pub fn depth(&self) -> (usize, Duration) {
        self.lock().depth(Instant::now())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(namespace: &str, name: &str) -> Arc<str> {
    format!("{namespace}/{name}").into()
}

impl Waiting {
    fn add(&mut self, key: &Arc<str>, now: Instant) {
        self.add_at(key, now, now);
    }

    /// Of two times the earlier one holds.
    fn add_at(&mut self, key: &Arc<str>, at: Instant, now: Instant) {
        if self.since.get(key).is_some_and(|since| *since <= at) {
            return;
        }
        self.remove(key);
        self.since.insert(key.clone(), at);
        let line = if at <= now { &mut self.due } else { &mut self.later };
        line.insert((at, key.clone()));
    }

    fn remove(&mut self, key: &Arc<str>) {
        if let Some(since) = self.since.remove(key) {
            let entry = (since, key.clone());
            if !self.due.remove(&entry) {
                self.later.remove(&entry);
            }
        }
    }

    fn depth(&mut self, now: Instant) -> (usize, Duration) {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            self.due.extend(self.later.pop_first());
        }
        let oldest = self.due.first().map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since));
        (self.due.len(), oldest)
    }
}

/// The queues of all kinds, as metrics. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Queues {
    queues: Arc<Mutex<BTreeMap<&'static str, Queue>>>,
}

impl Queues {
    pub(super) fn of(&self, kind: &'static str) -> Queue {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default().clone()
    }
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues").finish_non_exhaustive()
    }
}

impl Collector for Queues {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let depths: Vec<_> = {
            let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            queues.iter().map(|(kind, queue)| (*kind, queue.depth())).collect()
        };
        if depths.is_empty() {
            return Ok(());
        }
        let mut depth = encoder.encode_descriptor("queue_depth", "Objects that wait for a reconcile", None, MetricType::Gauge)?;
        for (kind, (count, _)) in &depths {
            ConstGauge::new(i64::try_from(*count).unwrap_or(i64::MAX)).encode(depth.encode_family(&[("kind", *kind)])?)?;
        }
        let help = "How long the oldest of them has waited";
        let mut oldest = encoder.encode_descriptor("queue_oldest", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for (kind, (_, since)) in &depths {
            ConstGauge::new(since.as_secs_f64()).encode(oldest.encode_family(&[("kind", *kind)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_rests_does_not_wait_until_the_time_has_come() {
        let (begin, mut waiting) = (Instant::now(), Waiting::default());
        let (a, b) = (key("shop", "a"), key("shop", "b"));
        assert_eq!(waiting.depth(begin), (0, Duration::ZERO));
        waiting.add(&a, begin);
        waiting.add_at(&b, begin + 10 * SECOND, begin);
        assert_eq!(waiting.depth(begin + 3 * SECOND), (1, 3 * SECOND));
        waiting.remove(&a);
        assert_eq!(waiting.depth(begin + 9 * SECOND), (0, Duration::ZERO));
        assert_eq!(waiting.depth(begin + 12 * SECOND), (1, 2 * SECOND));
        waiting.remove(&b);
        assert_eq!(waiting.depth(begin + 12 * SECOND), (0, Duration::ZERO));
        assert!(waiting.since.is_empty() && waiting.due.is_empty() && waiting.later.is_empty());
    }

    #[test]
    fn the_earliest_reason_to_look_holds() {
        let (begin, mut waiting) = (Instant::now(), Waiting::default());
        let a = key("shop", "a");
        waiting.add_at(&a, begin + 60 * SECOND, begin);
        waiting.add(&a, begin + SECOND);
        waiting.add(&a, begin + 5 * SECOND);
        waiting.add_at(&a, begin + 30 * SECOND, begin + 5 * SECOND);
        assert_eq!(waiting.depth(begin + 90 * SECOND), (1, 89 * SECOND), "one object is one entry");
        assert!(waiting.later.is_empty());
        waiting.remove(&a);
        waiting.remove(&a);
        assert_eq!(waiting.depth(begin + 90 * SECOND), (0, Duration::ZERO));
    }

    #[test]
    fn a_scrape_is_as_long_with_a_thousand_objects_as_with_one() {
        let metrics = super::super::Metrics::new();
        let queue = metrics.reconciles.begin("Orchestration");
        let lines = |count: usize| {
            let text = metrics.encode().unwrap();
            assert!(text.contains(&format!("durable_operator_queue_depth{{kind=\"Orchestration\"}} {count}\n")), "{text}");
            text.lines().count()
        };
        queue.add("shop", "order-0");
        let of_one = lines(1);
        (0..1000).for_each(|number| queue.add("shop", &format!("order-{number}")));
        assert_eq!(lines(1000), of_one);
    }
}

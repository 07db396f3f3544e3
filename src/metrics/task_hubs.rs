//! What is known of each TaskHub, as metrics.
//!
//! Owns the figures that carry a TaskHub's name. Invariants: there are as many series as TaskHubs, and none of one that was
//! deleted; what is not known is not there, rather than old.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// What is known of one TaskHub.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HubFigures {
    /// It can be worked with.
    pub ready: bool,
    /// A worker serves it; none while that cannot be asked.
    pub workers_active: Option<bool>,
    /// Its Orchestrations by status; none until all were looked at.
    pub orchestrations: Option<[(&'static str, i64); 6]>,
    /// Its messages; none while nothing unfinished refers to it, or that cannot be asked.
    pub backlog: Option<HubBacklog>,
}

/// The messages of a hub.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HubBacklog {
    /// In all control queues.
    pub control: QueueFigures,
    /// In the work-item queue.
    pub work_item: QueueFigures,
}

/// The messages of a queue, or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueFigures {
    /// How many there are, those included that are hidden until their time.
    pub messages: u64,
    /// How long ago the oldest visible one was put; none if none is visible.
    pub oldest: Option<Duration>,
}

/// The figures of all TaskHubs. Clones share them.
#[derive(Clone, Default)]
pub struct TaskHubMetrics {
    hubs: Arc<Mutex<BTreeMap<(String, String), HubFigures>>>,
}

impl TaskHubMetrics {
    /// Changes what is known of a TaskHub.
    pub fn update(&self, namespace: &str, task_hub: &str, update: impl FnOnce(&mut HubFigures)) {
        update(self.lock().entry((namespace.to_owned(), task_hub.to_owned())).or_default());
    }

    /// The TaskHub is gone.
    pub fn remove(&self, namespace: &str, task_hub: &str) {
        self.lock().remove(&(namespace.to_owned(), task_hub.to_owned()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), HubFigures>> {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TaskHubMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHubMetrics").finish_non_exhaustive()
    }
}

/// A TaskHub, perhaps one label more, and the value.
type Series<'a> = (&'a (String, String), Option<(&'static str, &'static str)>, f64);

/// One family: each hub has any number of its series.
struct Gauges<'a> {
    name: &'static str,
    help: &'static str,
    unit: Option<&'a Unit>,
    series: Vec<Series<'a>>,
}

impl Gauges<'_> {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if self.series.is_empty() {
            return Ok(());
        }
        let mut family = encoder.encode_descriptor(self.name, self.help, self.unit, MetricType::Gauge)?;
        for ((namespace, task_hub), further, value) in &self.series {
            let mut labels = vec![("namespace", namespace.as_str()), ("task_hub", task_hub.as_str())];
            labels.extend(*further);
            ConstGauge::new(*value).encode(family.encode_family(&labels.as_slice())?)?;
        }
        Ok(())
    }
}

impl Collector for TaskHubMetrics {
    #[allow(clippy::cast_precision_loss, reason = "no count comes near 2^52")]
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let hubs = self.lock().clone();
        let yes = |is: bool| if is { 1.0 } else { 0.0 };
        let seconds = Unit::Seconds;
        let queues = |figures: &HubFigures| {
            figures.backlog.map(|backlog| [("control", backlog.control), ("work_item", backlog.work_item)]).into_iter().flatten()
        };
        let families = [
            Gauges {
                name: "task_hub_ready",
                help: "1 if the TaskHub is Ready",
                unit: None,
                series: hubs.iter().map(|(key, hub)| (key, None, yes(hub.ready))).collect(),
            },
            Gauges {
                name: "task_hub_workers_active",
                help: "1 if a worker serves the TaskHub",
                unit: None,
                series: hubs.iter().filter_map(|(key, hub)| Some((key, None, yes(hub.workers_active?)))).collect(),
            },
            Gauges {
                name: "task_hub_orchestrations",
                help: "Orchestrations that refer to the TaskHub, by status",
                unit: None,
                series: hubs
                    .iter()
                    .flat_map(|(key, hub)| hub.orchestrations.iter().flatten().map(move |(status, count)| (key, status, count)))
                    .map(|(key, status, count)| (key, Some(("status", *status)), *count as f64))
                    .collect(),
            },
            Gauges {
                name: "task_hub_backlog_messages",
                help: "Messages in the queues of the task hub, while unfinished Orchestrations refer to it",
                unit: None,
                series: hubs
                    .iter()
                    .flat_map(|(key, hub)| queues(hub).map(move |(queue, of)| (key, Some(("queue", queue)), of.messages as f64)))
                    .collect(),
            },
            Gauges {
                name: "task_hub_oldest_message",
                help: "Age of the oldest message that a worker could take, 0 if there is none",
                unit: Some(&seconds),
                series: hubs
                    .iter()
                    .flat_map(|(key, hub)| {
                        let age = |of: QueueFigures| of.oldest.unwrap_or_default().as_secs_f64();
                        queues(hub).map(move |(queue, of)| (key, Some(("queue", queue)), age(of)))
                    })
                    .collect(),
            },
        ];
        families.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn a_hub_has_series_as_long_as_it_is_there_and_only_of_what_is_known() {
        let metrics = Metrics::new();
        metrics.task_hubs.update("shop", "orders", |hub| hub.ready = true);
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"durable_operator_task_hub_ready{namespace="shop",task_hub="orders"} 1"#), "{text}");
        assert!(!text.contains("workers_active") && !text.contains("backlog"), "{text}");
        let backlog = HubBacklog {
            control: QueueFigures { messages: 3, oldest: Some(Duration::from_millis(1500)) },
            work_item: QueueFigures::default(),
        };
        metrics.task_hubs.update("shop", "orders", |hub| {
            hub.workers_active = Some(false);
            hub.backlog = Some(backlog);
        });
        let text = metrics.encode().unwrap();
        for line in [
            r#"durable_operator_task_hub_workers_active{namespace="shop",task_hub="orders"} 0"#,
            r#"durable_operator_task_hub_backlog_messages{namespace="shop",task_hub="orders",queue="control"} 3"#,
            r#"durable_operator_task_hub_oldest_message_seconds{namespace="shop",task_hub="orders",queue="control"} 1.5"#,
            r#"durable_operator_task_hub_oldest_message_seconds{namespace="shop",task_hub="orders",queue="work_item"} 0"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        metrics.task_hubs.remove("shop", "orders");
        assert!(!metrics.encode().unwrap().contains("orders"));
    }
}

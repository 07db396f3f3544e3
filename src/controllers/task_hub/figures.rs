//! What the metrics say of a TaskHub: the same that its status says, without a request more.
//!
//! Invariant: what could not be asked this time is not shown, or shown as it was asked last if it need not be asked yet.

use super::describe::{Connected, Finding};
use super::{Object, TaskHubs};
use crate::hubs::{Counts, HubKey};
use crate::metrics::HubFigures;

/// What an Orchestration's run can be counted as, in the order of [`by_status`].
const STATUSES: [&str; 6] = ["Pending", "Running", "Suspended", "Completed", "Failed", "Terminated"];

impl TaskHubs {
    /// Shows what was found of the TaskHub.
    pub(super) fn show(&self, object: &Object, finding: &Finding) {
        let key = HubKey { namespace: object.namespace().to_owned(), name: object.name().to_owned() };
        let orchestrations = self.all_are_recorded().then(|| by_status(self.hubs.counts(&key)));
        self.metrics.update(&key.namespace, &key.name, |figures| learn(figures, finding, orchestrations));
    }
}

fn learn(figures: &mut HubFigures, finding: &Finding, orchestrations: Option<[(&'static str, i64); 6]>) {
    let (ready, connected) = match finding {
        Finding::Connected(connected) => (true, Some(connected)),
        Finding::Held { connected, .. } => (false, connected.as_deref()),
        Finding::NotReady(_) => (false, None),
    };
    figures.ready = ready;
    figures.workers_active = connected.map(|connected| connected.served_partitions > 0);
    figures.orchestrations = orchestrations;
    match connected {
        None => figures.backlog = None,
        Some(Connected { counted: Some(counted), .. }) => figures.backlog = counted.messages,
        // They were asked a moment ago.
        Some(Connected { counted: None, .. }) => {}
    }
}

fn by_status(counts: Counts) -> [(&'static str, i64); 6] {
    let Counts { pending, running, suspended, completed, failed, terminated } = counts;
    let counts = [pending, running, suspended, completed, failed, terminated];
    std::array::from_fn(|number| (STATUSES[number], counts[number]))
}

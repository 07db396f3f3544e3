//! What the hub itself says about runs, read behind the operator's back.

use std::collections::BTreeMap;

use durable_bed::recording::{Row, Snapshot};
use durable_operator::api::v1alpha1::Orchestration;
use sha2::{Digest, Sha256};

use super::{World, eventually};

/// All that the hub holds about its instances.
pub struct Runs {
    snapshot: Snapshot,
}

impl Runs {
    pub async fn read(world: &World) -> Runs {
        Runs { snapshot: Snapshot::take(&world.storage(), &world.hub_name, "now").await.unwrap() }
    }

    /// The hub once no queue holds a message, visible or not: whatever was sent was consumed.
    pub async fn at_rest(world: &World) -> Runs {
        eventually("the hub's queues are empty", async || {
            let runs = Runs::read(world).await;
            if runs.messages() == 0 { Ok(runs) } else { Err(format!("{:?}", runs.snapshot.queues)) }
        })
        .await
    }

    /// How many messages wait in all queues, visible or not.
    pub fn messages(&self) -> u64 {
        self.snapshot.queues.values().map(|queue| queue.approximate_count).sum()
    }

    /// The IDs of all instances that the hub has.
    pub fn instances(&self) -> Vec<String> {
        self.snapshot.rows("Instances").iter().map(|row| text(row, "PartitionKey")).collect()
    }

    /// A column of an instance's row.
    pub fn column(&self, instance_id: &str, column: &str) -> Option<String> {
        let row = self.snapshot.rows("Instances").iter().find(|row| text(row, "PartitionKey") == instance_id)?;
        row.contains_key(column).then(|| text(row, column))
    }

    /// How many rows of each event type the instance's history has.
    pub fn history(&self, instance_id: &str) -> BTreeMap<String, usize> {
        let mut events = BTreeMap::new();
        for row in self.snapshot.rows("History").iter().filter(|row| text(row, "PartitionKey") == instance_id) {
            *events.entry(text(row, "EventType")).or_default() += 1;
        }
        events
    }

    /// The object's instance ran once and to its end: one start, as many activities and timers as the function has, of the object's execution.
    pub fn assert_ran_once(&self, object: &Orchestration, status: &str, activities: usize) {
        let name = object.metadata.name.as_deref().unwrap();
        let uid = object.metadata.uid.as_deref().unwrap();
        let digest = hex::encode(Sha256::digest(uid.as_bytes()));
        let id = format!("{name}-{}", &digest[..12]);
        let history = self.history(&id);
        let count = |event: &str| history.get(event).copied().unwrap_or_default();
        assert_eq!(count("ExecutionStarted"), 1, "{id}: {history:?}");
        assert_eq!(count("ExecutionCompleted"), 1, "{id}: {history:?}");
        assert_eq!(count("TaskScheduled"), activities, "{id}: {history:?}");
        assert_eq!(count("TaskCompleted"), activities, "{id}: {history:?}");
        assert_eq!(self.column(&id, "RuntimeStatus").as_deref(), Some(status), "{id}");
        assert_eq!(self.column(&id, "ExecutionId").as_deref(), Some(&digest[..32]), "{id}: the execution of the object");
        let owner = format!("{}/{name}/{uid}", object.metadata.namespace.as_deref().unwrap());
        assert_eq!(self.column(&id, "KubernetesOwner"), Some(owner), "{id}");
        let shown = object.status.clone().unwrap_or_default();
        assert_eq!(shown.execution_id.as_deref(), Some(&digest[..32]), "{id}: {shown:?}");
        assert_eq!(shown.instance_id, Some(id), "{shown:?}");
    }
}

fn text(row: &Row, column: &str) -> String {
    row.get(column).and_then(|cell| cell.value.as_str()).unwrap_or_default().to_owned()
}

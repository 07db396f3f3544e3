//! What the hub itself says about runs, read behind the operator's back.

use std::collections::{BTreeMap, BTreeSet};

use durable_bed::recording::{Row, Snapshot};
use durable_operator::api::v1alpha1::Orchestration;
use sha2::{Digest, Sha256};

use super::{World, eventually};

/// All that the hub holds about its instances.
pub struct Runs {
    snapshot: Snapshot,
    /// Rows of the Instances table, by instance.
    rows: BTreeMap<String, usize>,
    /// Rows of the History table, by instance, in their order.
    history: BTreeMap<String, Vec<usize>>,
}

impl Runs {
    pub async fn read(world: &World) -> Runs {
        let snapshot = Snapshot::take(&world.storage(), &world.hub_name, "now").await.unwrap();
        let rows = snapshot.rows("Instances").iter().enumerate().map(|(number, row)| (text(row, "PartitionKey"), number)).collect();
        let mut history: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (number, row) in snapshot.rows("History").iter().enumerate() {
            history.entry(text(row, "PartitionKey")).or_default().push(number);
        }
        Runs { snapshot, rows, history }
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
        self.rows.keys().cloned().collect()
    }

    /// The IDs of all instances that the hub has history of.
    pub fn instances_with_history(&self) -> Vec<String> {
        self.history.keys().cloned().collect()
    }

    /// A column of an instance's row.
    pub fn column(&self, instance_id: &str, column: &str) -> Option<String> {
        let row = &self.snapshot.rows("Instances")[*self.rows.get(instance_id)?];
        row.contains_key(column).then(|| text(row, column))
    }

    /// How many rows of each event type the instance's history has.
    pub fn history(&self, instance_id: &str) -> BTreeMap<String, usize> {
        let mut events = BTreeMap::new();
        for row in self.history_rows(instance_id) {
            *events.entry(text(row, "EventType")).or_default() += 1;
        }
        events
    }

    /// The executions that the instance's history has rows of.
    pub fn executions(&self, instance_id: &str) -> BTreeSet<String> {
        self.history_rows(instance_id).map(|row| text(row, "ExecutionId")).collect()
    }

    fn history_rows(&self, instance_id: &str) -> impl Iterator<Item = &Row> {
        let rows = self.snapshot.rows("History");
        self.history.get(instance_id).into_iter().flatten().map(|number| &rows[*number])
    }

    /// The object's instance ran once and to its end: one start, as many activities and timers as the function has, of the object's execution.
    pub fn assert_ran_once(&self, object: &Orchestration, status: &str, activities: usize) {
        let (id, _) = identity(object);
        assert_eq!(self.assert_started_once(object), status, "{id}");
        let history = self.history(&id);
        let count = |event: &str| history.get(event).copied().unwrap_or_default();
        assert_eq!(count("TaskScheduled"), activities, "{id}: {history:?}");
        assert_eq!(count("TaskCompleted"), activities, "{id}: {history:?}");
    }

    /// The object's instance started once, as the object's execution and no other, and came to one end; which one.
    pub fn assert_started_once(&self, object: &Orchestration) -> String {
        let name = object.metadata.name.as_deref().unwrap();
        let uid = object.metadata.uid.as_deref().unwrap();
        let (id, execution) = identity(object);
        let history = self.history(&id);
        let count = |event: &str| history.get(event).copied().unwrap_or_default();
        assert_eq!(count("ExecutionStarted"), 1, "{id}: {history:?}");
        assert_eq!(count("ExecutionCompleted"), 1, "{id}: {history:?}");
        assert_eq!(self.executions(&id), BTreeSet::from([execution.clone()]), "{id}: {history:?}");
        assert_eq!(self.column(&id, "ExecutionId").as_deref(), Some(execution.as_str()), "{id}: the execution of the object");
        let owner = format!("{}/{name}/{uid}", object.metadata.namespace.as_deref().unwrap());
        assert_eq!(self.column(&id, "KubernetesOwner"), Some(owner), "{id}");
        let shown = object.status.clone().unwrap_or_default();
        assert_eq!(shown.execution_id.as_deref(), Some(execution.as_str()), "{id}: {shown:?}");
        assert_eq!(shown.instance_id.as_deref(), Some(id.as_str()), "{shown:?}");
        self.column(&id, "RuntimeStatus").unwrap_or_default()
    }
}

/// Instance and execution ID that the object's run has, by product.md 3.1.
pub fn identity(object: &Orchestration) -> (String, String) {
    let digest = hex::encode(Sha256::digest(object.metadata.uid.as_deref().unwrap().as_bytes()));
    (format!("{}-{}", object.metadata.name.as_deref().unwrap(), &digest[..12]), digest[..32].to_owned())
}

fn text(row: &Row, column: &str) -> String {
    row.get(column).and_then(|cell| cell.value.as_str()).unwrap_or_default().to_owned()
}

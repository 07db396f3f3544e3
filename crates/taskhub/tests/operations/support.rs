//! A hub of its own for each test, filled by hand or from a recording, and a proxy that counts.

use std::path::Path;

use base64::Engine as _;
use durable_bed::azurite::Azurite;
use durable_bed::proxy::{Recorded, StorageProxy};
use durable_bed::recording::{Recording, Snapshot, entity};
use durable_taskhub::artifacts::EngineLine;
use durable_taskhub::event::{Event, EventKind, ExecutionStarted, OrchestrationStatus};
use durable_taskhub::names::{HubName, escape_key};
use durable_taskhub::partition::PartitionCount;
use durable_taskhub::storage::{Account, Condition, Entity, Operation, Options, Service, Storage, Value};
use durable_taskhub::{TaskHub, Time};

/// A hub that no other test has.
pub struct World {
    pub hub: TaskHub,
}

pub fn storage(connection_string: &str) -> Storage {
    Storage::new(Account::from_connection_string(connection_string).unwrap(), Options::default()).unwrap()
}

pub fn random_name() -> HubName {
    HubName::new(&format!("T{}", &uuid::Uuid::new_v4().simple().to_string()[..12])).unwrap()
}

pub fn recording(path: &str) -> Recording {
    Recording::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/golden/{path}.json.gz"))).unwrap()
}

impl World {
    pub async fn new() -> World {
        let storage = storage(&Azurite::of_process().unwrap().connection_string());
        let hub = TaskHub::create(storage, random_name(), PartitionCount::DEFAULT, EngineLine::Line2).await.unwrap();
        World { hub }
    }

    /// A hub that holds the rows and blobs of a recorded snapshot.
    pub async fn of(recording: &Recording, label: &str) -> World {
        let world = World::new().await;
        world.load(recording, label).await;
        world
    }

    pub async fn load(&self, recording: &Recording, label: &str) {
        let snapshot = recording.snapshot(label).unwrap_or_else(|| panic!("{} has no snapshot {label}", recording.scenario));
        let (lower, own) = (recording.hub.to_lowercase(), self.hub.name().as_str().to_lowercase());
        let container = self.hub.storage().container(&self.hub.name().large_messages_container());
        for blob in snapshot.blobs.get(&format!("{lower}-largemessages")).and_then(Option::as_ref).into_iter().flatten() {
            container.create_if_missing().await.unwrap();
            container.put(&blob.name, base64::engine::general_purpose::STANDARD.decode(&blob.base64).unwrap(), true).await.unwrap();
        }
        let endpoint = format!("{}/{own}-largemessages", self.hub.storage().account().endpoint(Service::Blob));
        for suffix in ["Instances", "History"] {
            let table = self.table(suffix);
            for row in snapshot.rows(suffix) {
                let mut row = entity(row).unwrap();
                for value in row.columns.values_mut() {
                    if let Value::String(text) = value {
                        if let Some((_, rest)) = text.split_once(&format!("/{lower}-largemessages")).filter(|_| text.starts_with("http")) {
                            *text = format!("{endpoint}{rest}");
                        }
                        *text = text.replace(&recording.hub, self.hub.name().as_str());
                    }
                }
                table.replace(&row, Condition::Upsert).await.unwrap();
            }
        }
    }

    pub fn table(&self, suffix: &str) -> durable_taskhub::storage::Table {
        self.hub.storage().table(&format!("{}{suffix}", self.hub.name()))
    }

    /// The same hub through a proxy.
    pub async fn proxied(&self) -> (StorageProxy, TaskHub) {
        let proxy = Azurite::of_process().unwrap().proxy().unwrap();
        let options = Options { max_retries: 0, ..Options::default() };
        let storage = Storage::new(Account::from_connection_string(&proxy.connection_string()).unwrap(), options).unwrap();
        let hub = TaskHub::connect(storage, self.hub.name().clone(), None).await.unwrap();
        proxy.clear();
        (proxy, hub)
    }

    pub async fn snapshot(&self) -> Snapshot {
        Snapshot::take(self.hub.storage(), self.hub.name(), "now").await.unwrap()
    }

    pub async fn lines(&self) -> Vec<String> {
        self.snapshot().await.normalised(self.hub.name().as_str())
    }

    /// A finished or unfinished instance as an engine leaves it, by direct writes: its row and `rows` rows of history with a sentinel.
    pub async fn instance(&self, id: &str, status: &str, rows: u64) {
        self.instance_of(id, status, rows, "Echo", Time::now()).await;
    }

    pub async fn instance_of(&self, id: &str, status: &str, rows: u64, name: &str, time: Time) {
        let key = escape_key(id);
        let row = Entity::new(key.as_str(), "")
            .with("Name", name)
            .with("RuntimeStatus", status)
            .with("ExecutionId", "E")
            .with("CustomStatus", "null")
            .with("CreatedTime", time)
            .with("LastUpdatedTime", time)
            .with("Input", "\"the input\"")
            .with("TaskHubName", self.hub.name().as_str())
            .with("Tags", "null");
        self.table("Instances").insert(&row).await.unwrap();
        let operations: Vec<Operation> = history(&key, id, name, status, rows).into_iter().map(Operation::Insert).collect();
        for chunk in operations.chunks(100) {
            self.table("History").transaction(chunk).await.unwrap();
        }
    }

    pub async fn blob(&self, name: &str) {
        let container = self.hub.storage().container(&self.hub.name().large_messages_container());
        container.create_if_missing().await.unwrap();
        container.put(name, b"any".to_vec(), true).await.unwrap();
    }

    pub async fn blobs(&self) -> Vec<String> {
        let container = self.hub.storage().container(&self.hub.name().large_messages_container());
        container.list("").await.map(|blobs| blobs.into_iter().map(|blob| blob.name).collect()).unwrap_or_default()
    }
}

/// `number` rows of events, the last of them the end if the status has one, and the sentinel.
pub fn history(key: &str, id: &str, name: &str, status: &str, number: u64) -> Vec<Entity> {
    let ended = OrchestrationStatus::from_name(status).filter(|status| status.is_final());
    let event = |ordinal: u64| match ordinal {
        1 => EventKind::ExecutionStarted(Box::new(ExecutionStarted::new(id, "E", name, Some("\"the input\"".to_owned())))),
        last if last + 1 == number => match ended {
            Some(status) => EventKind::ExecutionCompleted { status, result: Some("\"the result\"".to_owned()), failure_details: None },
            None => EventKind::OrchestratorCompleted,
        },
        _ => EventKind::OrchestratorStarted,
    };
    let mut rows: Vec<Entity> = (0..number).map(|ordinal| Event::new(Time::now(), event(ordinal)).to_row(key, ordinal, "E")).collect();
    if number > 0 {
        rows.push(Entity::new(key, "sentinel").with("ExecutionId", "E").with("IsCheckpointComplete", true));
    }
    rows
}

/// Requests as `method service`, counted.
pub fn counted(requests: &[Recorded]) -> String {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for request in requests {
        *counts.entry(format!("{} {:?}", request.method, request.service)).or_default() += 1;
    }
    counts.into_iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

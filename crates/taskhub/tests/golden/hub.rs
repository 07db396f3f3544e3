//! A recorded state, put back onto the emulator under a name of its own.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use durable_bed::azurite::Azurite;
use durable_bed::recording::{Recording, Snapshot, entity};
use durable_taskhub::TaskHub;
use durable_taskhub::names::HubName;
use durable_taskhub::partition::PartitionCount;
use durable_taskhub::storage::{Account, Options, Service, Storage};

/// A hub that holds what a snapshot says.
pub struct World {
    pub storage: Storage,
    pub name: HubName,
    pub hub: TaskHub,
}

/// Where the recorder's emulator listened.
const RECORDED_BLOBS: &str = "http://127.0.0.1:10000/devstoreaccount1";

impl World {
    /// The state of `before`, or a hub as a client leaves it at its first call.
    pub async fn new(recording: &Recording, before: Option<&Snapshot>) -> Result<World, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let connection_string = Azurite::of_process().map_err(|error| error.to_string())?.connection_string();
        let storage = Storage::new(Account::from_connection_string(&connection_string).unwrap(), Options::default()).unwrap();
        let name = HubName::new(&format!("Golden{}N{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))).unwrap();
        let first = recording.steps.iter().find_map(|step| match step {
            durable_bed::recording::Step::Snapshot(snapshot) => Some(snapshot),
            _ => None,
        });
        let text = |error: durable_taskhub::storage::StorageError| error.to_string();
        // What is there before any command: the first snapshot's artifacts without what commands and workers write.
        let state = before.or(first).ok_or("no snapshot")?;
        for (queue, held) in &state.queues {
            let queue = storage.queue(&renamed(queue, recording, &name));
            queue.create_if_missing().await.map_err(text)?;
            for message in held.messages.iter().filter(|_| before.is_some()) {
                queue.put(&message.text, Duration::ZERO).await.map_err(text)?;
            }
            // What was not visible then cannot be known; that it was there is.
            let hidden = held.approximate_count.saturating_sub(held.messages.len() as u64);
            for _ in (0..hidden).filter(|_| before.is_some()) {
                queue.put("hidden", Duration::from_secs(3600)).await.map_err(text)?;
            }
        }
        for (table, rows) in &state.tables {
            if rows.is_empty() && table.ends_with("Partitions") {
                continue;
            }
            let is_partitions = table.ends_with("Partitions");
            let table = storage.table(&renamed(table, recording, &name));
            table.create_if_missing().await.map_err(text)?;
            for row in rows.iter().filter(|_| before.is_some() || is_partitions) {
                let mut row = entity(row)?;
                row.row_key = renamed(&row.row_key, recording, &name);
                for value in row.columns.values_mut() {
                    if let durable_taskhub::storage::Value::String(text) = value {
                        *text = relocated(text, &storage, recording, &name);
                    }
                }
                table.insert(&row).await.map_err(text)?;
            }
        }
        for (container, blobs) in &state.blobs {
            let Some(blobs) = blobs else { continue };
            let is_large = container.ends_with("-largemessages");
            if is_large && before.is_none() {
                continue;
            }
            let container = storage.container(&renamed(container, recording, &name));
            container.create_if_missing().await.map_err(text)?;
            for blob in blobs {
                let content = base64::engine::general_purpose::STANDARD.decode(&blob.base64).map_err(|error| error.to_string())?;
                container.put(&renamed(&blob.name, recording, &name), content, true).await.map_err(text)?;
            }
        }
        let partitions = PartitionCount::new(recording.partition_count);
        let hub = TaskHub::connect(storage.clone(), name.clone(), partitions).await.map_err(|error| error.to_string())?;
        Ok(World { storage, name, hub })
    }
}

impl World {
    /// What the hub holds now, as comparable lines.
    pub async fn lines(&self) -> Result<Vec<String>, String> {
        let snapshot = Snapshot::take(&self.storage, &self.name, "now").await.map_err(|error| error.to_string())?;
        Ok(crate::deviations::smooth(snapshot.normalised(self.name.as_str())))
    }
}

/// `text` with the recorded hub's name replaced, in both cases of letters.
pub fn renamed(text: &str, recording: &Recording, name: &HubName) -> String {
    text.replace(&recording.hub, name.as_str()).replace(&recording.hub.to_lowercase(), &name.as_str().to_lowercase())
}

/// `text` as it would stand in our hub: other name, other address of the blobs.
pub fn relocated(text: &str, storage: &Storage, recording: &Recording, name: &HubName) -> String {
    renamed(text, recording, name).replace(RECORDED_BLOBS, storage.account().endpoint(Service::Blob))
}

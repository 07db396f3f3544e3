//! The state of a hub as a whole: who serves it, what waits in it, which engine runs it.
//!
//! Reads only. Owns what lease rows (engine 2.x) and lease blobs (1.x) say
//! about being served, and how the engine's line is told from the history.

use std::time::Duration;

use crate::artifacts::EngineLine;
use crate::hub::{Partition, TaskHub};
use crate::storage::{Entity, Query, Queue, StorageError, Value};
use crate::time::Time;

/// How many pages of the history are searched for the engine's line.
const MAX_LINE_PAGES: u32 = 5;

/// A hub as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubInfo {
    /// The engine's line, by the latest evidence in the history; none without history.
    pub engine_line: Option<EngineLine>,
    /// When the hub was made; only hubs managed by blob say it.
    pub created_at: Option<Time>,
    /// The control queues, in the order of their names.
    pub partitions: Vec<PartitionInfo>,
    /// Where activities wait.
    pub work_items: QueueInfo,
}

/// A control queue, and who serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// The queue.
    pub queue: QueueInfo,
    /// True if a worker holds the partition's lease now.
    pub is_served: bool,
    /// The worker that holds or held the lease.
    pub owner: Option<String>,
    /// When the lease ends unless it is renewed; only hubs managed by table say it.
    pub lease_expires_at: Option<Time>,
}

/// What waits in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueInfo {
    /// The queue's name.
    pub name: String,
    /// The number of messages, hidden ones (timers, messages in work) included; not exact. None if there is no such queue.
    pub messages: Option<u64>,
    /// How long the message at the front has waited; none if no message is visible. To the second.
    pub oldest: Option<Duration>,
}

#[derive(serde::Deserialize)]
struct LeaseBlob {
    #[serde(rename = "Owner")]
    owner: Option<String>,
}

impl HubInfo {
    /// True if a worker serves at least one partition: it answers the commonest question, why an instance stays `Pending`.
    pub fn has_active_workers(&self) -> bool {
        self.partitions.iter().any(|partition| partition.is_served)
    }
}

impl TaskHub {
    /// The hub's state. About five requests and two per partition; of hubs managed by blob one more per partition.
    ///
    /// # Errors
    /// [`StorageError`] if the storage account does not answer as needed. A queue that is missing is no error.
    pub async fn info(&self) -> Result<HubInfo, StorageError> {
        let now = Time::now();
        let rows = self.partitions().await?;
        let blobs = self.lease_blobs().await?;
        let created_at = self.created_at().await?;
        let mut partitions = Vec::new();
        for index in 0..self.partition_count().get() {
            let name = self.name().control_queue(index);
            let queue = inspect(&self.storage().queue(&name), now).await?;
            let row = rows.iter().find(|row| row.queue == name);
            let leased = blobs.iter().find(|(queue, ..)| *queue == name);
            partitions.push(PartitionInfo {
                is_served: row.is_some_and(|row| row.is_served(now)) || leased.is_some_and(|(_, leased, _)| *leased),
                owner: row.and_then(|row| row.owner.clone()).or_else(|| leased.and_then(|(.., owner)| owner.clone())),
                lease_expires_at: row.and_then(|row| row.expires_at),
                queue,
            });
        }
        let work_items = inspect(&self.storage().queue(&self.name().work_item_queue()), now).await?;
        Ok(HubInfo { engine_line: self.engine_line().await?, created_at, partitions, work_items })
    }

    /// How many partitions a worker serves now; none if nothing says how the hub is managed, as after its deletion.
    ///
    /// For those who look often: one request, two of a hub managed by blob at first and while nobody serves it.
    ///
    /// # Errors
    /// [`StorageError`] if the storage account does not answer as needed.
    pub async fn served_partitions(&self) -> Result<Option<usize>, StorageError> {
        let count_leased = async || Ok::<_, StorageError>(self.leased_partitions().await?.filter(|leased| *leased > 0));
        if self.is_managed_by_blob()
            && let Some(leased) = count_leased().await?
        {
            return Ok(Some(leased));
        }
        let now = Time::now();
        let rows = self.partitions().await?;
        let served = rows.iter().filter(|row| row.is_served(now)).count();
        if served > 0 || rows.iter().any(Partition::was_owned) {
            self.remember_managed_by_blob(false);
            return Ok(Some(served));
        }
        // Rows that nobody ever owned are some client's opinion (task-hub.md 1.6): the blobs may know better.
        let leased = self.leased_partitions().await?;
        self.remember_managed_by_blob(leased.is_some());
        Ok(leased.or_else(|| (!rows.is_empty()).then_some(0)))
    }

    /// How many ownership blobs are leased; none if there is no container of leases.
    async fn leased_partitions(&self) -> Result<Option<usize>, StorageError> {
        let container = self.storage().container(&self.name().leases_container());
        match container.list("").await {
            Ok(blobs) => {
                let of_a_partition = |name: &str| name.starts_with("ownership/") || name.starts_with("default/");
                Ok(Some(blobs.iter().filter(|blob| blob.leased && of_a_partition(&blob.name)).count()))
            }
            Err(error) if error.is_container_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The line of the engine that runs the hub: on a top-level start engine 2.x writes the column `ParentInstance` with the text
    /// `null`, engine 1.x leaves it out (task-hub.md 5.4). None if there is no such start. One request, at most five.
    ///
    /// # Errors
    /// [`StorageError`] if the storage account does not answer as needed.
    pub async fn engine_line(&self) -> Result<Option<EngineLine>, StorageError> {
        let mut query = Query {
            filter: Some("EventType eq 'ExecutionStarted'".to_owned()),
            select: ["ParentInstance", "Timestamp"].map(str::to_owned).into(),
            top: Some(100),
            ..Query::default()
        };
        let mut newest: Option<(Time, EngineLine)> = None;
        for _ in 0..MAX_LINE_PAGES {
            let page = match self.history_table().query(&query).await {
                Ok(page) => page,
                Err(error) if error.is_container_not_found() => return Ok(None),
                Err(error) => return Err(error),
            };
            for row in &page.entities {
                let written = row.timestamp.unwrap_or(Time::now());
                if let Some(line) = line_of(row).filter(|_| newest.is_none_or(|(time, _)| time < written)) {
                    newest = Some((written, line));
                }
            }
            match page.continuation {
                Some(continuation) if newest.is_none() => query.continuation = Some(continuation),
                _ => break,
            }
        }
        Ok(newest.map(|(_, line)| line))
    }

    /// By queue: whether its ownership blob is leased, and by whom (task-hub.md 1.5). Empty in hubs managed by table.
    async fn lease_blobs(&self) -> Result<Vec<(String, bool, Option<String>)>, StorageError> {
        const LIMIT: u64 = 64 * 1024;
        let container = self.storage().container(&self.name().leases_container());
        let mut leases = Vec::new();
        for folder in ["ownership/", "default/"] {
            let blobs = match container.list(folder).await {
                Ok(blobs) => blobs,
                Err(error) if error.is_container_not_found() => return Ok(leases),
                Err(error) => return Err(error),
            };
            for blob in blobs.into_iter().take(64) {
                let content = container.get(&blob.name, LIMIT).await?.unwrap_or_default();
                let owner = serde_json::from_slice::<LeaseBlob>(&content).ok().and_then(|lease| lease.owner);
                leases.push((blob.name.trim_start_matches(folder).to_owned(), blob.leased, owner));
            }
        }
        Ok(leases)
    }
}

/// What the start in a history row says of the engine; nothing if it is a sub-orchestration's, which both lines write alike.
fn line_of(row: &Entity) -> Option<EngineLine> {
    match row.columns.get("ParentInstance") {
        None => Some(EngineLine::Line1),
        Some(Value::String(text)) if text == "null" => Some(EngineLine::Line2),
        Some(_) => None,
    }
}

async fn inspect(queue: &Queue, now: Time) -> Result<QueueInfo, StorageError> {
    let name = queue.name().to_owned();
    let messages = match queue.approximate_count().await {
        Ok(count) => count,
        Err(error) if error.is_container_not_found() => return Ok(QueueInfo { name, messages: None, oldest: None }),
        Err(error) => return Err(error),
    };
    let front = queue.peek(1).await?.into_iter().next().and_then(|message| message.inserted_at);
    Ok(QueueInfo { name, messages: Some(messages), oldest: front.map(|inserted| now.since(inserted)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_top_level_starts_tell_the_line() {
        let row = Entity::new("i", "0000000000000001");
        assert_eq!(line_of(&row), Some(EngineLine::Line1));
        assert_eq!(line_of(&row.clone().with("ParentInstance", "null")), Some(EngineLine::Line2));
        assert_eq!(line_of(&row.with("ParentInstance", "{\"Name\":\"Parent\"}")), None);
    }
}

//! Recordings of the real engine, snapshots of a hub in the same form, and their comparison.
//!
//! A snapshot is all that a hub holds: queues, tables with their EDM types,
//! blobs. [`Snapshot::normalised`] turns it into lines in which everything that
//! differs from run to run (hub name, execution IDs, times, message IDs, random
//! parts of names, the transport encoding of messages) is replaced by a
//! placeholder; what is left must be equal. It knows nothing of who made the
//! state.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use durable_taskhub::Time;
use durable_taskhub::names::HubName;
use durable_taskhub::storage::{Entity, Query, Storage, StorageError, Table, Value};
use serde::Deserialize;
use serde_json::Value as Json;

/// The largest blob that a snapshot takes in, in bytes.
const MAX_BLOB: u64 = 16 * 1024 * 1024;

/// One recorded scenario.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recording {
    /// The scenario's name.
    pub scenario: String,
    /// The recorded hub's name.
    pub hub: String,
    /// How many control queues it had.
    pub partition_count: u32,
    /// What happened, in order.
    pub steps: Vec<Step>,
}

/// One step of a recording.
#[derive(Debug, Deserialize)]
#[serde(tag = "step", rename_all = "lowercase")]
pub enum Step {
    /// A command that was given to the client, and its reply.
    Command {
        /// The command.
        command: Json,
        /// The reply.
        reply: Json,
    },
    /// Something that the recorder did or waited for.
    Note {
        /// In words.
        text: String,
    },
    /// What storage held while the worker was stopped.
    Snapshot(Snapshot),
}

/// All that a hub holds.
#[derive(Debug, Clone, Deserialize)]
pub struct Snapshot {
    /// The recording's name for it: `queued`, `done` and others.
    pub label: String,
    /// By queue name.
    pub queues: BTreeMap<String, QueueState>,
    /// By table name, in key order. A table that is not there is empty.
    #[serde(deserialize_with = "tables")]
    pub tables: BTreeMap<String, Vec<Row>>,
    /// By container name; none if there is no such container.
    pub blobs: BTreeMap<String, Option<Vec<BlobState>>>,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueState {
    /// Invisible messages included.
    pub approximate_count: u64,
    /// The visible ones, at most 32.
    pub messages: Vec<MessageState>,
}

/// One visible message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct MessageState {
    /// Exactly as stored.
    pub text: String,
}

/// One row: its columns, keys and server timestamp included.
pub type Row = BTreeMap<String, Cell>;

/// One column of one row.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Cell {
    /// `Edm.String` and so on.
    #[serde(rename = "type")]
    pub edm: String,
    /// As in the table service's JSON.
    pub value: Json,
}

/// One blob.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlobState {
    /// Its name within the container.
    pub name: String,
    /// Its content.
    pub base64: String,
}

impl Recording {
    /// Reads a recording, plain or (by the file's extension `gz`) compressed.
    ///
    /// # Errors
    /// A text that names the file.
    pub fn read(path: &Path) -> Result<Recording, String> {
        let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let bytes = std::fs::read(path).map_err(|error| fail(&error))?;
        let mut text = String::new();
        if path.extension().is_some_and(|extension| extension == "gz") {
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).map_err(|error| fail(&error))?;
        } else {
            text = String::from_utf8(bytes).map_err(|error| fail(&error))?;
        }
        serde_json::from_str(&text).map_err(|error| fail(&error))
    }

    /// The snapshot of that label.
    pub fn snapshot(&self, label: &str) -> Option<&Snapshot> {
        self.steps.iter().find_map(|step| match step {
            Step::Snapshot(snapshot) if snapshot.label == label => Some(snapshot),
            _ => None,
        })
    }

    /// The recorded commands with that `op`.
    pub fn commands<'a>(&'a self, op: &'a str) -> impl Iterator<Item = &'a Json> {
        self.steps.iter().filter_map(move |step| match step {
            Step::Command { command, .. } if command["op"] == op => Some(command),
            _ => None,
        })
    }
}

impl Snapshot {
    /// Reads all that the hub `hub` holds. Messages are peeked at: nothing is changed.
    ///
    /// # Errors
    /// Storage failed.
    pub async fn take(storage: &Storage, hub: &HubName, label: &str) -> Result<Snapshot, StorageError> {
        let mut snapshot = Snapshot { label: label.to_owned(), queues: BTreeMap::new(), tables: BTreeMap::new(), blobs: BTreeMap::new() };
        for name in storage.list_queues(&format!("{}-", hub.as_str().to_lowercase())).await? {
            let queue = storage.queue(&name);
            let state = QueueState {
                approximate_count: queue.approximate_count().await?,
                messages: queue.peek(32).await?.into_iter().map(|message| MessageState { text: message.text }).collect(),
            };
            snapshot.queues.insert(name, state);
        }
        for name in [hub.instances_table(), hub.history_table(), hub.partitions_table()] {
            snapshot.tables.insert(name.clone(), rows(&storage.table(&name)).await?);
        }
        for name in [hub.large_messages_container(), hub.leases_container(), hub.app_lease_container()] {
            let container = storage.container(&name);
            let entries = match container.list("").await {
                Ok(entries) => entries,
                Err(error) if error.is_container_not_found() => {
                    snapshot.blobs.insert(name, None);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut blobs = Vec::new();
            for entry in entries {
                let content = container.get(&entry.name, MAX_BLOB).await?.unwrap_or_default();
                blobs.push(BlobState { name: entry.name, base64: STANDARD.encode(content) });
            }
            snapshot.blobs.insert(name, Some(blobs));
        }
        Ok(snapshot)
    }

    /// The rows of the table whose name ends in `suffix`: `Instances`, `History` or `Partitions`.
    pub fn rows(&self, suffix: &str) -> &[Row] {
        self.tables.iter().find(|(name, _)| name.ends_with(suffix)).map_or(&[], |(_, rows)| rows)
    }

    /// The snapshot as lines, one per fact, with placeholders for what differs from run to run.
    pub fn normalised(&self, hub: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, queue) in &self.queues {
            lines.push(format!("queue {name}: {} messages, {} visible", queue.approximate_count, queue.messages.len()));
            for (index, message) in queue.messages.iter().enumerate() {
                lines.push(format!("queue {name} message {index}: {}", normalised_message(&message.text)));
            }
        }
        for (table, rows) in &self.tables {
            lines.push(format!("table {table}: {} rows", rows.len()));
            for row in rows {
                let key = format!("{}|{}", text(row, "PartitionKey"), text(row, "RowKey"));
                for (column, cell) in row {
                    lines.push(format!("table {table} [{key}] {column} ({}): {}", cell.edm, normalised_cell(column, cell)));
                }
            }
        }
        for (container, blobs) in &self.blobs {
            let Some(blobs) = blobs else {
                lines.push(format!("container {container}: absent"));
                continue;
            };
            lines.push(format!("container {container}: {} blobs", blobs.len()));
            for blob in blobs {
                lines.push(format!("blob {container}/{}: {}", normalised_name(&blob.name), content(&blob.base64)));
            }
        }
        let executions = self.execution_ids();
        let lower = hub.to_lowercase();
        for line in &mut lines {
            for (index, id) in executions.iter().enumerate() {
                *line = line.replace(id, &format!("<execution {}>", index + 1));
            }
            *line = line.replace(hub, "<Hub>").replace(&lower, "<hub>");
        }
        lines
    }

    /// The execution IDs of all rows and messages, in the order of their first appearance.
    fn execution_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        let mut add = |id: &str| {
            if !id.is_empty() && !ids.iter().any(|known| known == id) {
                ids.push(id.to_owned());
            }
        };
        for row in self.rows("Instances").iter().chain(self.rows("History")) {
            add(&text(row, "ExecutionId"));
        }
        for message in self.queues.values().flat_map(|queue| &queue.messages) {
            if let Ok(json) = serde_json::from_str::<Json>(&decoded(&message.text)) {
                add(json["TaskMessage"]["OrchestrationInstance"]["ExecutionId"].as_str().unwrap_or_default());
            }
        }
        ids
    }
}

/// What is in one and not in the other, as a readable text; none if both hold the same lines.
pub fn difference(expected: &[String], actual: &[String]) -> Option<String> {
    let mut left: BTreeMap<&str, i64> = BTreeMap::new();
    for line in expected {
        *left.entry(line).or_default() += 1;
    }
    for line in actual {
        *left.entry(line).or_default() -= 1;
    }
    let mut texts = Vec::new();
    for (line, count) in left {
        let sign = if count > 0 { "- expected" } else { "+ found   " };
        texts.extend((0..count.abs()).map(|_| format!("{sign} {line}")));
    }
    (!texts.is_empty()).then(|| texts.join("\n"))
}

/// The entity of a recorded row, to be written again.
///
/// # Errors
/// A text that names the column that cannot be read.
pub fn entity(row: &Row) -> Result<Entity, String> {
    let mut entity = Entity::new(text(row, "PartitionKey"), text(row, "RowKey"));
    for (column, cell) in row.iter().filter(|(column, _)| !["PartitionKey", "RowKey", "Timestamp"].contains(&column.as_str())) {
        let value = match cell.edm.as_str() {
            "Edm.String" => cell.value.as_str().map(|text| Value::String(text.to_owned())),
            "Edm.Int32" => cell.value.as_i64().and_then(|number| i32::try_from(number).ok()).map(Value::Int32),
            "Edm.Boolean" => cell.value.as_bool().map(Value::Boolean),
            "Edm.DateTime" => cell.value.as_str().and_then(|text| Time::parse(text).ok()).map(Value::DateTime),
            _ => None,
        };
        entity.set(column, value.ok_or_else(|| format!("column {column}: {} {}", cell.edm, cell.value))?);
    }
    Ok(entity)
}

/// Hubs managed by blob have no table of partitions: recorded as null.
fn tables<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Vec<Row>>, D::Error> {
    let tables = BTreeMap::<String, Option<Vec<Row>>>::deserialize(deserializer)?;
    Ok(tables.into_iter().map(|(name, rows)| (name, rows.unwrap_or_default())).collect())
}

async fn rows(table: &Table) -> Result<Vec<Row>, StorageError> {
    let mut query = Query::default();
    let mut rows = Vec::new();
    loop {
        let page = match table.query(&query).await {
            Err(error) if error.is_container_not_found() => return Ok(rows),
            page => page?,
        };
        rows.extend(page.entities.iter().map(row));
        if page.continuation.is_none() {
            return Ok(rows);
        }
        query.continuation = page.continuation;
    }
}

fn row(entity: &Entity) -> Row {
    let mut row: Row = entity.columns.iter().map(|(column, value)| (column.clone(), cell(value))).collect();
    row.insert("PartitionKey".to_owned(), cell(&Value::String(entity.partition_key.clone())));
    row.insert("RowKey".to_owned(), cell(&Value::String(entity.row_key.clone())));
    if let Some(timestamp) = entity.timestamp {
        row.insert("Timestamp".to_owned(), cell(&Value::DateTime(timestamp)));
    }
    row
}

fn cell(value: &Value) -> Cell {
    let (edm, value) = match value {
        Value::String(text) => ("String", Json::from(text.as_str())),
        Value::Int32(number) => ("Int32", (*number).into()),
        Value::Int64(number) => ("Int64", number.to_string().into()),
        Value::Boolean(boolean) => ("Boolean", (*boolean).into()),
        Value::DateTime(time) => ("DateTime", time.to_table().into()),
        Value::Double(number) => ("Double", (*number).into()),
        Value::Guid(text) => ("Guid", text.as_str().into()),
        Value::Binary(bytes) => ("Binary", STANDARD.encode(bytes).into()),
    };
    Cell { edm: format!("Edm.{edm}"), value }
}

fn text(row: &Row, column: &str) -> String {
    row.get(column).and_then(|cell| cell.value.as_str()).unwrap_or_default().to_owned()
}

fn normalised_cell(column: &str, cell: &Cell) -> String {
    match cell.value.as_str() {
        Some(_) if cell.edm == "Edm.DateTime" => "<time>".to_owned(),
        Some(text) if column == "ParentTraceContext" && text != "null" => "<trace context>".to_owned(),
        Some(text) if column.ends_with("BlobName") => normalised_name(text),
        _ => cell.value.to_string(),
    }
}

fn normalised_message(text: &str) -> String {
    let Ok(mut json) = serde_json::from_str::<Json>(&decoded(text)) else { return format!("not readable: {text}") };
    replace_members(&mut json);
    json.to_string()
}

/// Times, IDs and trace contexts, wherever they stand in a message.
fn replace_members(value: &mut Json) {
    let Some(members) = value.as_object_mut() else { return };
    for (name, member) in members {
        let placeholder = match name.as_str() {
            "Timestamp" | "ScheduledStartTime" | "FireAt" if member.is_string() => Some("<time>"),
            "ActivityId" => Some("<id>"),
            "ParentTraceContext" if !member.is_null() => Some("<trace context>"),
            _ => None,
        };
        match placeholder {
            Some(placeholder) => *member = placeholder.into(),
            None => replace_members(member),
        }
    }
}

/// A message's text without its transport encoding.
fn decoded(text: &str) -> String {
    if text.starts_with('{') {
        return text.to_owned();
    }
    STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| text.to_owned())
}

/// The name of a blob without its random part (32 or 8 hexadecimal digits between hyphens).
fn normalised_name(name: &str) -> String {
    let random = |part: &&str| [8, 32].contains(&part.len()) && part.chars().all(|c| c.is_ascii_hexdigit());
    name.split('-').map(|part| if random(&part) { "<random>" } else { part }).collect::<Vec<_>>().join("-")
}

/// A blob's content: unzipped if it is compressed, as text if it is one.
fn content(base64: &str) -> String {
    let bytes = STANDARD.decode(base64).unwrap_or_default();
    let mut unzipped = Vec::new();
    let zipped = flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut unzipped).is_ok();
    match String::from_utf8(if zipped { unzipped } else { bytes }) {
        Ok(text) if text.contains("MessageData") => normalised_message(&text),
        Ok(text) => format!("{}{text}", if zipped { "(compressed) " } else { "" }),
        Err(_) => base64.to_owned(),
    }
}

//! The form of events as rows of the History table (task-hub.md 5.1 and 5.4).
//!
//! Nulls are absent, but for the structured columns, where engine 2.x stores
//! the text `null`. Large values are none of this module's business: whoever
//! writes or reads rows moves them to blobs and back first (task-hub.md 5.5).

use serde_json::Value as Json;

use super::{Event, EventError, EventKind, Field, OrchestrationStatus, Source, newtonsoft, parts};
use crate::Time;
use crate::storage::{Entity, Value};

/// The columns that every row has, and those of the table service.
const BASE_COLUMNS: [&str; 8] = ["EventId", "EventType", "IsPlayed", "_Timestamp", "ExecutionId", "PartitionKey", "RowKey", "Timestamp"];

impl Event {
    /// The row of this event: `partition_key` is the escaped instance ID, `ordinal` its place in the history from 0.
    pub fn to_row(&self, partition_key: &str, ordinal: u64, execution_id: &str) -> Entity {
        let mut row = Entity::new(partition_key, Event::row_key(ordinal));
        for (name, field) in self.kind.fields() {
            if stored(&self.kind, name)
                && let Some(value) = field_to_column(field)
            {
                row.set(name, value);
            }
        }
        if let EventKind::Other { columns, .. } = &self.kind {
            for (name, value) in columns {
                row.set(name.as_str(), value.clone());
            }
        }
        row.set("EventId", Value::Int32(self.event_id));
        row.set("EventType", Value::String(self.kind.event_type().to_owned()));
        row.set("IsPlayed", Value::Boolean(self.is_played));
        row.set("_Timestamp", Value::DateTime(self.timestamp));
        row.set("ExecutionId", Value::String(execution_id.to_owned()));
        row
    }

    /// The row key of the event at `ordinal`: 16 upper-case hexadecimal digits (task-hub.md 5.1).
    pub fn row_key(ordinal: u64) -> String {
        format!("{ordinal:016X}")
    }

    /// Reads a row; one of unknown `EventType` becomes [`EventKind::Other`].
    ///
    /// # Errors
    /// [`EventError`] if a column is missing or of the wrong type, or if a value lies in a blob.
    pub fn from_row(row: &Entity) -> Result<Event, EventError> {
        if let Some(column) = row.columns.keys().find_map(|name| name.strip_suffix("BlobName")) {
            return Err(EventError::LargeValue(column.to_owned()));
        }
        let columns = Columns(row);
        let event_type = columns.text("EventType")?.ok_or(EventError::Missing("EventType"))?;
        let kind = match EventKind::read(&event_type, &columns)? {
            Some(kind) => kind,
            None => EventKind::Other {
                event_type,
                columns: row
                    .columns
                    .iter()
                    .filter(|(name, _)| !BASE_COLUMNS.contains(&name.as_str()))
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
            },
        };
        Ok(Event {
            event_id: columns.int("EventId")?.ok_or(EventError::Missing("EventId"))?,
            is_played: columns.boolean("IsPlayed")?.unwrap_or(false),
            timestamp: columns.time("_Timestamp")?.ok_or(EventError::Missing("_Timestamp"))?,
            kind,
        })
    }
}

/// What the engine leaves out of the row: inputs are only in the message (task-hub.md 5.4).
fn stored(kind: &EventKind, name: &str) -> bool {
    match kind {
        EventKind::TaskScheduled { .. } => name != "Input",
        EventKind::SubOrchestrationInstanceCreated { .. } => name != "Input",
        _ => true,
    }
}

fn field_to_column(field: Field<'_>) -> Option<Value> {
    let json = |value: Option<Json>| Some(Value::String(newtonsoft(&value.unwrap_or(Json::Null))));
    match field {
        Field::Text(text) => text.map(|text| Value::String(text.to_owned())),
        Field::Int(number) => number.map(Value::Int32),
        Field::Boolean(boolean) => Some(Value::Boolean(boolean)),
        Field::Time(time) => time.map(Value::DateTime),
        Field::Status(status) => Some(Value::String(status.as_str().to_owned())),
        Field::Instance(instance) => json(Some(instance.to_json(false))),
        Field::Parent(parent) => json(parent.map(|parent| parent.to_json(false))),
        Field::Tags(tags) => json(tags.map(parts::tags_to_json)),
        Field::Trace(trace) => json(trace.map(|trace| trace.to_json(false))),
        Field::Failure(failure) => json(failure.map(|failure| failure.to_json(false))),
    }
}

struct Columns<'a>(&'a Entity);

impl Columns<'_> {
    fn get<T>(&self, name: &'static str, expected: &'static str, read: impl FnOnce(&Value) -> Option<T>) -> Result<Option<T>, EventError> {
        self.0.columns.get(name).map(|value| read(value).ok_or(EventError::Malformed { member: name, expected })).transpose()
    }
}

impl Source for Columns<'_> {
    fn text(&self, name: &'static str) -> Result<Option<String>, EventError> {
        self.get(name, "a text", |value| if let Value::String(text) = value { Some(text.clone()) } else { None })
    }
    fn int(&self, name: &'static str) -> Result<Option<i32>, EventError> {
        self.get(name, "an Int32", |value| if let Value::Int32(number) = value { Some(*number) } else { None })
    }
    fn boolean(&self, name: &'static str) -> Result<Option<bool>, EventError> {
        self.get(name, "a Boolean", |value| if let Value::Boolean(boolean) = value { Some(*boolean) } else { None })
    }
    fn time(&self, name: &'static str) -> Result<Option<Time>, EventError> {
        self.get(name, "a DateTime", |value| if let Value::DateTime(time) = value { Some(*time) } else { None })
    }
    fn status(&self, name: &'static str) -> Result<Option<OrchestrationStatus>, EventError> {
        let malformed = EventError::Malformed { member: name, expected: "the name of a status" };
        self.text(name)?.map(|text| OrchestrationStatus::from_name(&text).ok_or(malformed)).transpose()
    }
    fn object(&self, name: &'static str) -> Result<Option<Json>, EventError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let value: Json = serde_json::from_str(&text).map_err(|_| EventError::Malformed { member: name, expected: "a text of JSON" })?;
        Ok(Some(value).filter(|value| !value.is_null()))
    }
}

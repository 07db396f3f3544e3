//! The form of events in messages: Newtonsoft.Json with type names (task-hub.md 3.3, 3.6).
//!
//! Writing keeps the exact order of members and the exact escaping; reading is
//! as tolerant as the engine (task-hub.md 3.9), and as strict.

use std::io;

use serde_json::{Map, Value};

use super::{EVENT_TYPES, Event, EventError, EventKind, Field, OrchestrationStatus, Source, parts};
use crate::Time;

const TYPE_PREFIX: &str = "DurableTask.Core.History.";

impl Event {
    /// The event's JSON object, `$type` first; none for [`EventKind::Other`], which no message may carry.
    pub(crate) fn to_json(&self) -> Option<Value> {
        let event_type = self.kind.event_type();
        let number = EVENT_TYPES.iter().find(|(name, _)| *name == event_type).map(|(_, number)| *number)?;
        let mut members = Map::new();
        members.insert("$type".into(), format!("{TYPE_PREFIX}{}", class_of(event_type)).into());
        // .NET writes public fields before properties; only these two events have one.
        let fields_before_type = usize::from(matches!(self.kind, EventKind::ExecutionStarted(_) | EventKind::GenericEvent { .. }));
        for (index, (name, field)) in self.kind.fields().into_iter().enumerate() {
            if index == fields_before_type {
                members.insert("EventType".into(), number.into());
            }
            members.insert(name.into(), field_to_json(field));
        }
        // Without effect where it has its place already.
        members.entry("EventType").or_insert_with(|| number.into());
        members.insert("EventId".into(), self.event_id.into());
        members.insert("IsPlayed".into(), self.is_played.into());
        members.insert("Timestamp".into(), self.timestamp.to_string().into());
        Some(Value::Object(members))
    }

    /// Reads a message's event. A missing `Timestamp` becomes the present time, as in the engine.
    pub(crate) fn from_json(value: &Value) -> Result<Event, EventError> {
        let members = Members::of(value, "Event")?;
        let type_name = match members.0.iter().next() {
            Some((key, Value::String(name))) if key == "$type" => name,
            _ => return Err(EventError::TypeNotFirst),
        };
        let class = type_name.split(',').next().unwrap_or_default().trim();
        let event_type = EVENT_TYPES
            .iter()
            .map(|(name, _)| *name)
            .find(|name| class.strip_prefix(TYPE_PREFIX).is_some_and(|class| class == class_of(name)))
            .ok_or_else(|| EventError::UnknownType(class.chars().take(100).collect()))?;
        let kind = EventKind::read(event_type, &members)?.ok_or_else(|| EventError::UnknownType(event_type.to_owned()))?;
        Ok(Event {
            event_id: members.int("EventId")?.unwrap_or(0),
            is_played: members.boolean("IsPlayed")?.unwrap_or(false),
            timestamp: members.time("Timestamp")?.unwrap_or_else(Time::now),
            kind,
        })
    }
}

fn class_of(event_type: &str) -> String {
    if event_type == "GenericEvent" { event_type.to_owned() } else { format!("{event_type}Event") }
}

fn field_to_json(field: Field<'_>) -> Value {
    match field {
        Field::Text(text) => text.map_or(Value::Null, Value::from),
        Field::Int(number) => number.map_or(Value::Null, Value::from),
        Field::Boolean(boolean) => boolean.into(),
        Field::Time(time) => time.map_or(Value::Null, |time| time.to_string().into()),
        Field::Status(status) => status.number().into(),
        Field::Instance(instance) => instance.to_json(true),
        Field::Parent(parent) => parent.map_or(Value::Null, |parent| parent.to_json(true)),
        Field::Tags(tags) => tags.map_or(Value::Null, parts::tags_to_json),
        Field::Trace(trace) => trace.map_or(Value::Null, |trace| trace.to_json(true)),
        Field::Failure(failure) => failure.map_or(Value::Null, |failure| failure.to_json(true)),
    }
}

/// The members of a JSON object, found in any letter case, as Newtonsoft.Json does.
pub(crate) struct Members<'a>(&'a Map<String, Value>);

impl<'a> Members<'a> {
    pub(crate) fn of(value: &'a Value, what: &'static str) -> Result<Members<'a>, EventError> {
        value.as_object().map(Members).ok_or(EventError::NotAnObject(what))
    }

    /// The member, unless it is missing or null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        let value = self.0.get(name).or_else(|| self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value));
        value.filter(|value| !value.is_null())
    }

    /// Whether the member is there, be it null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.keys().any(|key| key.eq_ignore_ascii_case(name))
    }

    pub(crate) fn int64(&self, name: &'static str) -> Result<Option<i64>, EventError> {
        let malformed = EventError::Malformed { member: name, expected: "a whole number" };
        self.get(name).map(|value| value.as_i64().ok_or(malformed)).transpose()
    }

    pub(crate) fn int(&self, name: &'static str) -> Result<Option<i32>, EventError> {
        let malformed = |_| EventError::Malformed { member: name, expected: "a 32-bit number" };
        self.int64(name)?.map(|number| i32::try_from(number).map_err(malformed)).transpose()
    }

    pub(crate) fn text(&self, name: &'static str) -> Result<Option<String>, EventError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            // Newtonsoft.Json reads scalars into a string property.
            Some(scalar @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(scalar.to_string())),
            Some(_) => Err(EventError::Malformed { member: name, expected: "a text" }),
        }
    }

    pub(crate) fn boolean(&self, name: &'static str) -> Result<Option<bool>, EventError> {
        let malformed = EventError::Malformed { member: name, expected: "true or false" };
        self.get(name).map(|value| value.as_bool().ok_or(malformed)).transpose()
    }

    pub(crate) fn time(&self, name: &'static str) -> Result<Option<Time>, EventError> {
        let malformed = || EventError::Malformed { member: name, expected: "a time in UTC that ends in Z" };
        let Some(value) = self.get(name) else { return Ok(None) };
        // The engine throws on any other zone, `+00:00` included (task-hub.md 3.9 D).
        let text = value.as_str().filter(|text| text.ends_with('Z')).ok_or_else(malformed)?;
        Time::parse(text).map(Some).map_err(|_| malformed())
    }
}

impl Source for Members<'_> {
    fn text(&self, name: &'static str) -> Result<Option<String>, EventError> {
        Members::text(self, name)
    }
    fn int(&self, name: &'static str) -> Result<Option<i32>, EventError> {
        Members::int(self, name)
    }
    fn boolean(&self, name: &'static str) -> Result<Option<bool>, EventError> {
        Members::boolean(self, name)
    }
    fn time(&self, name: &'static str) -> Result<Option<Time>, EventError> {
        Members::time(self, name)
    }
    fn status(&self, name: &'static str) -> Result<Option<OrchestrationStatus>, EventError> {
        let malformed = EventError::Malformed { member: name, expected: "the number of a status" };
        self.int(name)?.map(|number| OrchestrationStatus::from_number(number).ok_or(malformed)).transpose()
    }
    fn object(&self, name: &'static str) -> Result<Option<Value>, EventError> {
        Ok(self.get(name).cloned())
    }
}

/// The text of `value` with the escaping of Newtonsoft.Json (task-hub.md 3.3).
pub(crate) fn newtonsoft(value: &Value) -> String {
    let mut bytes = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Newtonsoft);
    // Neither the target nor the value can fail: it is memory, and keys are texts.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    String::from_utf8(bytes).unwrap_or_default()
}

/// Compact JSON; beyond what JSON demands, line separators are escaped as well.
struct Newtonsoft;

impl serde_json::ser::Formatter for Newtonsoft {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['\u{85}', '\u{2028}', '\u{2029}']) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut characters = from.chars();
            if let Some(character) = characters.next() {
                write!(writer, "\\u{:04x}", u32::from(character))?;
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

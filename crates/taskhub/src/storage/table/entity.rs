//! Rows of tables, and their JSON both ways.
//!
//! Owns the types of columns (EDM) and their annotations. A `DateTime` or `Int64` without its
//! annotation would be stored as a string, and filters would miss it without a word. Knows no
//! columns of any table.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json};

use crate::Time;

/// The version of a row, as the service wrote it. Only equality has a meaning.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ETag(pub String);

/// A column's value, with the type that the table has for it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text, at most 64 KiB in UTF-16.
    String(String),
    /// A whole number of 32 bits.
    Int32(i32),
    /// A whole number of 64 bits.
    Int64(i64),
    /// A truth value.
    Boolean(bool),
    /// A point in time, to 100 ns.
    DateTime(Time),
    /// A floating point number; not-a-number and the infinities too.
    Double(f64),
    /// A GUID, in the text form that the service gave.
    Guid(String),
    /// Bytes, at most 64 KiB.
    Binary(Vec<u8>),
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),*) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Value {
                Value::$variant(value.into())
            }
        })*
    };
}
value_from!(String => String, &str => String, i32 => Int32, i64 => Int64, bool => Boolean, Time => DateTime, f64 => Double, Vec<u8> => Binary);

/// A row: its keys, what the service says of it, and its columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// The key of the partition. May be empty; `/`, `\`, `#`, `?` and control characters are not possible.
    pub partition_key: String,
    /// The key in the partition. The same rules.
    pub row_key: String,
    /// The version that was read; `None` on a row that was not.
    pub etag: Option<ETag>,
    /// When the row was last written, by the service's clock; `None` unless read.
    pub timestamp: Option<Time>,
    /// All other columns. A column that the row lacks, or has as null, is not in here.
    pub columns: BTreeMap<String, Value>,
}

impl Entity {
    /// A row without columns.
    pub fn new(partition_key: impl Into<String>, row_key: impl Into<String>) -> Entity {
        Entity { partition_key: partition_key.into(), row_key: row_key.into(), etag: None, timestamp: None, columns: BTreeMap::new() }
    }

    /// Sets a column.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.columns.insert(name.to_owned(), value.into());
    }

    /// The row with a column set.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Entity {
        self.set(name, value);
        self
    }

    /// The column, if it is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.columns.get(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The column, if it is a whole number of 32 bits.
    pub fn int32(&self, name: &str) -> Option<i32> {
        match self.columns.get(name) {
            Some(Value::Int32(number)) => Some(*number),
            _ => None,
        }
    }

    /// The column, if it is a whole number of 64 or 32 bits.
    pub fn int64(&self, name: &str) -> Option<i64> {
        match self.columns.get(name) {
            Some(Value::Int64(number)) => Some(*number),
            Some(Value::Int32(number)) => Some(i64::from(*number)),
            _ => None,
        }
    }

    /// The column, if it is a truth value.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        match self.columns.get(name) {
            Some(Value::Boolean(value)) => Some(*value),
            _ => None,
        }
    }

    /// The column, if it is a point in time.
    pub fn time(&self, name: &str) -> Option<Time> {
        match self.columns.get(name) {
            Some(Value::DateTime(time)) => Some(*time),
            _ => None,
        }
    }

    /// The body of a write: keys, columns, and the annotation of each type that JSON does not show.
    pub(crate) fn to_json(&self) -> Json {
        let mut body = Map::new();
        body.insert("PartitionKey".to_owned(), Json::from(self.partition_key.as_str()));
        body.insert("RowKey".to_owned(), Json::from(self.row_key.as_str()));
        for (name, value) in &self.columns {
            let (json, annotation) = value.to_json();
            body.insert(name.clone(), json);
            if let Some(annotation) = annotation {
                body.insert(format!("{name}{ANNOTATION}"), Json::from(annotation));
            }
        }
        Json::Object(body)
    }

    /// A row as the service gives it with `odata=minimalmetadata`; `None` if it is no JSON object.
    pub(crate) fn from_json(json: Json) -> Option<Entity> {
        let Json::Object(body) = json else { return None };
        let mut entity = Entity::new("", "");
        let mut annotations = HashMap::new();
        let mut columns = Vec::with_capacity(body.len());
        for (name, json) in body {
            match (name.strip_suffix(ANNOTATION), json) {
                (Some(column), Json::String(annotation)) => drop(annotations.insert(column.to_owned(), annotation)),
                (Some(_), _) => {}
                (None, json) => columns.push((name, json)),
            }
        }
        for (name, json) in columns {
            match (name.as_str(), json) {
                ("PartitionKey", Json::String(key)) => entity.partition_key = key,
                ("RowKey", Json::String(key)) => entity.row_key = key,
                ("Timestamp", Json::String(text)) => entity.timestamp = Time::parse(&text).ok(),
                ("odata.etag", Json::String(etag)) => entity.etag = Some(ETag(etag)),
                (service, _) if service.starts_with("odata.") => {}
                (_, json) => {
                    let annotation = annotations.get(&name).map(String::as_str);
                    if let Some(value) = Value::from_json(json, annotation) {
                        entity.columns.insert(name, value);
                    }
                }
            }
        }
        Some(entity)
    }
}

const ANNOTATION: &str = "@odata.type";

impl Value {
    fn to_json(&self) -> (Json, Option<&'static str>) {
        match self {
            Value::String(text) => (Json::from(text.as_str()), None),
            Value::Int32(number) => (Json::from(*number), None),
            Value::Int64(number) => (Json::from(number.to_string()), Some("Edm.Int64")),
            Value::Boolean(value) => (Json::from(*value), None),
            Value::DateTime(time) => (Json::from(time.to_table()), Some("Edm.DateTime")),
            // Always annotated: an integral one would be stored as Int32.
            Value::Double(number) => (double_to_json(*number), Some("Edm.Double")),
            Value::Guid(text) => (Json::from(text.as_str()), Some("Edm.Guid")),
            Value::Binary(bytes) => (Json::from(STANDARD.encode(bytes)), Some("Edm.Binary")),
        }
    }

    /// `None` for null. What its annotation does not fit is kept as text, so that one odd column does not hide the row.
    fn from_json(json: Json, annotation: Option<&str>) -> Option<Value> {
        Some(match json {
            Json::Null => return None,
            Json::Bool(value) => Value::Boolean(value),
            Json::String(text) => Value::from_text(&text, annotation).unwrap_or(Value::String(text)),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) if annotation != Some("Edm.Double") => i32::try_from(whole).map_or(Value::Int64(whole), Value::Int32),
                (_, Some(number)) => Value::Double(number),
                (_, None) => Value::String(number.to_string()),
            },
            other => Value::String(other.to_string()),
        })
    }

    /// `None` if the text is not of the annotated type, or the annotation is none that we know.
    fn from_text(text: &str, annotation: Option<&str>) -> Option<Value> {
        match annotation? {
            "Edm.Int64" => text.parse().ok().map(Value::Int64),
            "Edm.DateTime" => Time::parse(text).ok().map(Value::DateTime),
            "Edm.Guid" => Some(Value::Guid(text.to_owned())),
            "Edm.Binary" => STANDARD.decode(text).ok().map(Value::Binary),
            "Edm.Double" if text == "NaN" => Some(Value::Double(f64::NAN)),
            "Edm.Double" if text == "Infinity" => Some(Value::Double(f64::INFINITY)),
            "Edm.Double" if text == "-Infinity" => Some(Value::Double(f64::NEG_INFINITY)),
            _ => None,
        }
    }
}

fn double_to_json(number: f64) -> Json {
    if number.is_nan() {
        Json::from("NaN")
    } else if number.is_infinite() {
        Json::from(if number > 0.0 { "Infinity" } else { "-Infinity" })
    } else {
        Json::from(number)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_are_annotated_unless_json_shows_them() {
        let mut entity = Entity::new("it's", "")
            .with("Text", "x")
            .with("Int32", 1)
            .with("Int64", 1_i64)
            .with("Yes", true)
            .with("When", Time::parse("2025-03-14T09:26:53.5897932Z").unwrap())
            .with("Double", 1.0)
            .with("Nan", f64::NAN)
            .with("Bytes", vec![1_u8, 255]);
        entity.set("Guid", Value::Guid("0f8fad5b-d9cb-469f-a165-70867728950e".to_owned()));
        let expected = json!({
            "PartitionKey": "it's", "RowKey": "",
            "Bytes": "Af8=", "Bytes@odata.type": "Edm.Binary",
            "Double": 1.0, "Double@odata.type": "Edm.Double",
            "Guid": "0f8fad5b-d9cb-469f-a165-70867728950e", "Guid@odata.type": "Edm.Guid",
            "Int32": 1,
            "Int64": "1", "Int64@odata.type": "Edm.Int64",
            "Nan": "NaN", "Nan@odata.type": "Edm.Double",
            "Text": "x",
            "When": "2025-03-14T09:26:53.5897932Z", "When@odata.type": "Edm.DateTime",
            "Yes": true,
        });
        assert_eq!(entity.to_json(), expected);

        let Some(Value::Double(nan)) = entity.columns.remove("Nan") else { panic!("no double") };
        assert!(nan.is_nan());
        let mut read = Entity::from_json(expected).unwrap();
        assert!(matches!(read.columns.remove("Nan"), Some(Value::Double(nan)) if nan.is_nan()));
        assert_eq!(read, entity);
    }

    #[test]
    fn what_the_service_adds_is_told_apart() {
        let read = Entity::from_json(json!({
            "odata.metadata": "http://h/$metadata#T/@Element", "odata.etag": "W/\"datetime'x'\"",
            "PartitionKey": "p", "RowKey": "r", "Timestamp": "2026-11-23T07:29:23.8720560Z",
            "Timestamp@odata.type": "Edm.DateTime", "A": null, "B": "2026-11-23T07:29:23Z",
        }))
        .unwrap();
        assert_eq!(read.etag, Some(ETag("W/\"datetime'x'\"".to_owned())));
        assert_eq!(read.timestamp, Some(Time::parse("2026-11-23T07:29:23.872056Z").unwrap()));
        assert_eq!(read.columns, [("B".to_owned(), Value::from("2026-11-23T07:29:23Z"))].into());
    }

    #[test]
    fn odd_columns_are_kept_as_text_and_large_numbers_as_such() {
        let read = Entity::from_json(json!({
            "A": "POINT(1 2)", "A@odata.type": "Edm.GeographyPoint",
            "B": "soon", "B@odata.type": "Edm.DateTime",
            "C": "many", "C@odata.type": "Edm.Int64",
            "D": {"x": [1]}, "E": 2147483648_i64, "F": 1.5, "G": 3, "G@odata.type": "Edm.Double", "H": "!", "H@odata.type": "Edm.Binary",
            "I": "text", "I@odata.type": "Edm.String", "J": "0001-01-01T00:00:00Z", "J@odata.type": "Edm.DateTime",
        }))
        .unwrap();
        let text = |name| read.text(name).unwrap();
        assert_eq!((text("A"), text("B"), text("C"), text("H"), text("I")), ("POINT(1 2)", "soon", "many", "!", "text"));
        assert_eq!(text("D"), "{\"x\":[1]}");
        assert_eq!(read.columns["E"], Value::Int64(2_147_483_648));
        assert_eq!(read.columns["F"], Value::Double(1.5));
        assert_eq!(read.columns["G"], Value::Double(3.0));
        assert_eq!(read.time("J"), Some(Time::parse("0001-01-01T00:00:00Z").unwrap()));
        assert_eq!(Entity::from_json(json!([1])), None);
    }
}

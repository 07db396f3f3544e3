//! Field types whose schema the derive cannot express.
//!
//! Free JSON is kept as text from the API server to the hub and back: a parsed
//! number may be another number (crd-facts.md 2 and 3).

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Any JSON value, as text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(pub Box<RawValue>);

impl Json {
    /// Takes `text` if it is JSON.
    pub fn parse(text: String) -> Option<Json> {
        RawValue::from_string(text).ok().map(Json)
    }

    /// `text` as a JSON string.
    pub fn string(text: &str) -> Json {
        let quoted = serde_json::Value::String(text.to_owned()).to_string();
        Json(RawValue::from_string(quoted).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// The JSON text as the server sent it or as it will be written.
    pub fn text(&self) -> &str {
        self.0.get()
    }
}

/// Compared as the API server compares: by value, since it keeps neither key order nor notation.
impl PartialEq for Json {
    fn eq(&self, other: &Json) -> bool {
        if self.text() == other.text() {
            return true;
        }
        let parse = |json: &Json| serde_json::from_str::<serde_json::Value>(json.text());
        matches!((parse(self), parse(other)), (Ok(a), Ok(b)) if a == b)
    }
}

impl JsonSchema for Json {
    fn schema_name() -> Cow<'static, str> {
        "Json".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-preserve-unknown-fields": true, "nullable": true})
    }
}

/// A duration in Go's form (`90s`, `5m`, `1h30m`), kept as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GoDuration(String);

impl GoDuration {
    /// A duration as text; the schema has checked those that come from objects.
    pub fn new(text: &str) -> GoDuration {
        GoDuration(text.to_owned())
    }

    /// The duration, if the text is of Go's form and not negative.
    pub fn get(&self) -> Option<Duration> {
        let parsed: kube::core::Duration = self.0.parse().ok()?;
        (!parsed.is_negative()).then(|| parsed.into())
    }
}

impl JsonSchema for GoDuration {
    fn schema_name() -> Cow<'static, str> {
        "GoDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // `format: duration` alone also accepts `1d`, `PT5M` and `-5m` (crd-facts.md 3).
        json_schema!({
            "type": "string",
            "format": "duration",
            "maxLength": 32,
            "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go() {
        for (text, milliseconds) in [("90s", 90_000), ("5m", 300_000), ("1h30m", 5_400_000), ("250ms", 250)] {
            assert_eq!(GoDuration::new(text).get(), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(GoDuration::new("soon").get(), None);
        assert_eq!(GoDuration::new("-5m").get(), None);
    }

    #[test]
    fn json_is_compared_by_value_and_kept_as_text() {
        let a = Json::parse(r#"{"b": 1.0, "a": [null]}"#.to_owned()).unwrap();
        let b = Json::parse(r#"{"a":[null],"b":1.0}"#.to_owned()).unwrap();
        assert_eq!(a, b);
        assert_eq!(a.text(), r#"{"b": 1.0, "a": [null]}"#);
        assert_ne!(a, Json::string("x"));
    }
}

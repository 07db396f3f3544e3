//! The JSON text that goes to a function, from where its object says it stands.
//!
//! Invariants: a Secret or ConfigMap is only ever of the object's own namespace;
//! nothing that was read is in a message or a log; what is too large is refused
//! before it is handed on.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};

use super::failure::Failure;
use crate::api::v1alpha1::{Payload, ValueFrom};
use crate::connection::is_name_of_an_object;

/// kube has no time-out for reads.
const READ_TIME_OUT: Duration = Duration::from_secs(10);

/// Why a payload cannot be handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// It is not there, or may not be read. That heals without a change of the object.
    NotFound(String),
    /// It is no JSON.
    Invalid(String),
    /// It is larger than the hub's limit.
    TooLarge(String),
}

/// The text of `payload`; none if it is null. At most one request, to the API server.
///
/// # Errors
/// [`Failure`] if the API server does not answer as needed; [`Unusable`] if it does, and the payload cannot be used.
pub async fn text(
    client: &Client,
    namespace: &str,
    payload: &Payload,
    max_bytes: usize,
) -> Result<Result<Option<String>, Unusable>, Failure> {
    let text = match (&payload.value, &payload.text, &payload.value_from) {
        (Some(value), ..) if value.text() == "null" => return Ok(Ok(None)),
        (Some(value), ..) => unescape_html(value.text()),
        (None, Some(text), _) => text.clone(),
        (None, None, Some(from)) => match referred(client, namespace, from).await? {
            Ok(text) => text,
            Err(unusable) => return Ok(Err(unusable)),
        },
        (None, None, None) => return Ok(Ok(None)),
    };
    if text.len() > max_bytes {
        let message = format!(
            "it has {} bytes, and the TaskHub's limits.maxInputBytes is {max_bytes}: put the large part where the function can fetch it and pass a reference, or raise the limit",
            text.len()
        );
        return Ok(Err(Unusable::TooLarge(message)));
    }
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        return Ok(Err(Unusable::Invalid(format!("it is not JSON: {error}"))));
    }
    Ok(Ok(Some(text)))
}

async fn referred(client: &Client, namespace: &str, from: &ValueFrom) -> Result<Result<String, Unusable>, Failure> {
    let (kind, name, key) = match (&from.secret_key_ref, &from.config_map_key_ref) {
        (Some(reference), _) => ("Secret", &reference.name, &reference.key),
        (None, Some(reference)) => ("ConfigMap", &reference.name, &reference.key),
        (None, None) => return Ok(Err(Unusable::Invalid("valueFrom names neither a Secret nor a ConfigMap".to_owned()))),
    };
    // kube puts names into paths as they are: one that no object can have would be another path.
    if !is_name_of_an_object(name) {
        return Ok(Err(Unusable::NotFound(format!("{kind} {name} does not exist: no object can have such a name"))));
    }
    let answer = if kind == "Secret" {
        read(Api::<Secret>::namespaced(client.clone(), namespace).get_opt(name)).await?.map(|found| {
            let keys: Option<Vec<u8>> = found.and_then(|secret| secret.data?.remove(key).map(|bytes| bytes.0));
            keys.map(String::from_utf8)
        })
    } else {
        read(Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(name)).await?.map(|found| {
            let text = found.and_then(|map| {
                let binary = map.binary_data.and_then(|mut data| data.remove(key)).map(|bytes| bytes.0);
                map.data.and_then(|mut data| data.remove(key)).map(String::into_bytes).or(binary)
            });
            text.map(String::from_utf8)
        })
    };
    Ok(match answer {
        Read::Answer(Some(Ok(text))) => Ok(text),
        Read::Answer(Some(Err(_))) => Err(Unusable::Invalid(format!("key {key} of {kind} {name} is not UTF-8"))),
        Read::Answer(None) => Err(Unusable::NotFound(format!("{kind} {name} with key {key} does not exist in this namespace: create it"))),
        Read::Forbidden => Err(Unusable::NotFound(format!(
            "the operator may not read {kind} {name}: grant its service account get on it with a Role in this namespace"
        ))),
    })
}

enum Read<T> {
    Answer(T),
    Forbidden,
}

impl<T> Read<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Read<U> {
        match self {
            Read::Answer(answer) => Read::Answer(change(answer)),
            Read::Forbidden => Read::Forbidden,
        }
    }
}

async fn read<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<Read<T>, Failure> {
    match tokio::time::timeout(READ_TIME_OUT, request).await {
        Ok(Ok(answer)) => Ok(Read::Answer(answer)),
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => Ok(Read::Forbidden),
        Ok(Err(error)) => Err(Failure::new("api_server", error)),
        Err(_) => Err(Failure::of("api_server_timeout")),
    }
}

/// Decodes the escapes that Go's JSON encoder adds and Newtonsoft's does not; a backslash that is itself escaped stays.
fn unescape_html(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        text.push_str(before);
        let decoded = match escape.get(..6) {
            Some(r"\u003c") => Some('<'),
            Some(r"\u003e") => Some('>'),
            Some(r"\u0026") => Some('&'),
            _ => None,
        };
        let taken = match decoded {
            Some(character) => {
                text.push(character);
                6
            }
            None => {
                // The escape and what it escapes, which in JSON is one ASCII character.
                let end = escape.len().min(2);
                text.push_str(&escape[..end]);
                end
            }
        };
        rest = &escape[taken..];
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_escapes_are_decoded_and_nothing_else() {
        for (kept, sent) in [
            (r#"{"a":"\u003cb\u003e \u0026 c"}"#, r#"{"a":"<b> & c"}"#),
            (r#""\\u003c""#, r#""\\u003c""#),
            (r#""\\\u003c""#, r#""\\<""#),
            (r#""\n\"\u2028é""#, r#""\n\"\u2028é""#),
            ("12345678901234567890.10", "12345678901234567890.10"),
        ] {
            assert_eq!(unescape_html(kept), sent);
            let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(parse(kept), parse(sent));
        }
    }
}

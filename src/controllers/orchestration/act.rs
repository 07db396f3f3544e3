//! Carries out a decision in the task hub, and says what came of it.
//!
//! Knows no status and no condition. Invariant: the row is written before its
//! message (the types of `durable_taskhub::start` keep it), and a row that is
//! already there is never overwritten.

use durable_taskhub::start::{NotStartable, PreparedStart, StartError, StartRequest, StartWritten};
use durable_taskhub::{Instance, TaskHub};

use super::decide::{Hold, Refusal, Wish};
use super::describe::{Outcome, Row};
use super::identity::{OWNER_COLUMN, Whose};
use crate::controllers::failure::Failure;
use crate::crash_points::{self, at};
use crate::hubs::ReadyHub;

/// Outputs beyond this are not fetched to be described.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024 * 1024;

/// Starts the instance, or finds out whose the one of its ID is. Two requests if it is new.
pub async fn start(hub: &ReadyHub, wish: &Wish) -> Result<Outcome, Failure> {
    let request = StartRequest {
        name: wish.function_name.clone(),
        instance_id: wish.identity.instance_id.clone(),
        execution_id: wish.identity.execution_id.clone(),
        version: None,
        input: wish.input.as_ref().and_then(|input| input_text(input.value.text())),
        columns: vec![(OWNER_COLUMN.to_owned(), wish.identity.owner.clone())],
    };
    let prepared = match PreparedStart::new(&hub.client, request) {
        Ok(prepared) => prepared,
        Err(StartError::TooLarge(why)) => {
            return Ok(refused(
                "InputTooLarge",
                format!("{why}. Put the large part where the function can fetch it, and pass a reference"),
            ));
        }
        Err(StartError::InvalidInput(why)) => return Ok(refused("InputInvalid", format!("spec.input.value is not JSON: {why}"))),
        Err(error) => return Err(Failure::new("storage", error)),
    };
    crash_points::reached(at::BEFORE_ROW);
    match prepared.write(&hub.client).await {
        Ok(written) => {
            crash_points::reached(at::ROW_WRITTEN);
            send(&hub.client, &written).await?;
            Ok(accepted(wish, &written))
        }
        Err(StartError::AlreadyExists) => taken(hub, wish).await,
        Err(error) => Err(Failure::new("storage", error)),
    }
}

/// The ID is taken: by an earlier attempt of ours, or by another.
async fn taken(hub: &ReadyHub, wish: &Wish) -> Result<Outcome, Failure> {
    let id = wish.identity.instance_id.as_str();
    let Some(instance) = hub.client.get(id).await.map_err(|error| Failure::new("storage", error))? else {
        // Purged between the insert and the read: the next attempt inserts.
        return Err(Failure::of("instance_vanished"));
    };
    match wish.identity.whose(&instance) {
        Whose::Ours => {
            if let Ok(written) = StartWritten::again(&hub.client, &instance) {
                // Died after the row, or the answer of the insert was lost. The message may have been sent: a second one is swallowed.
                send(&hub.client, &written).await?;
                return Ok(accepted(wish, &written));
            }
            row(hub, instance.into()).await
        }
        Whose::OfObject(owner) => Ok(Outcome::Conflict { instance_id: id.to_owned(), status: instance.runtime_status, owner: Some(owner) }),
        Whose::Foreign => Ok(Outcome::Conflict { instance_id: id.to_owned(), status: instance.runtime_status, owner: None }),
    }
}

/// Sends the start message of a row that has waited too long. Two requests: the message needs the row's input.
pub async fn send_again(hub: &ReadyHub, instance_id: &str) -> Result<(), Failure> {
    let found = hub.client.get(instance_id).await.map_err(|error| Failure::new("storage", error))?;
    match found.as_ref().map(|instance| StartWritten::again(&hub.client, instance)) {
        Some(Ok(written)) => send(&hub.client, &written).await,
        // A worker took it up, or somebody purged it, since it was seen: the next read shows it.
        Some(Err(NotStartable::HasStarted)) | None => Ok(()),
        Some(Err(error @ NotStartable::Incomplete)) => Err(Failure::new("row_incomplete", error)),
    }
}

/// The row with its output, which may lie in a blob.
pub async fn row(hub: &ReadyHub, instance: std::sync::Arc<Instance>) -> Result<Outcome, Failure> {
    use durable_taskhub::payload::PayloadError;
    let output = match instance.output.as_ref().filter(|_| instance.runtime_status.is_terminal()) {
        None => None,
        Some(payload) => match hub.client.fetch(payload, MAX_OUTPUT_BYTES).await {
            Ok(text) => Some(Ok(text)),
            Err(PayloadError::Storage(error)) => return Err(Failure::new("storage", error)),
            Err(error) => Some(Err(error.to_string())),
        },
    };
    Ok(Outcome::Row(Row { instance, output, workers_active: hub.workers_active }))
}

async fn send(hub: &TaskHub, written: &StartWritten) -> Result<(), Failure> {
    written.send(hub).await.map_err(|error| Failure::new("storage", error))?;
    crash_points::reached(at::MESSAGE_SENT);
    Ok(())
}

fn accepted(wish: &Wish, written: &StartWritten) -> Outcome {
    Outcome::Accepted {
        instance_id: wish.identity.instance_id.as_str().to_owned(),
        execution_id: wish.identity.execution_id.clone(),
        created_time: written.created_time(),
    }
}

fn refused(reason: &'static str, message: String) -> Outcome {
    Outcome::Held(Hold::Refused(Refusal { reason, message }))
}

/// The text that goes to the hub: as the API server keeps it, its escapes of `<`, `>`, `&` decoded; null is no input (product.md 3.5).
fn input_text(value: &str) -> Option<String> {
    (value != "null").then(|| unescape_html(value))
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
        assert_eq!(input_text("null"), None);
    }
}

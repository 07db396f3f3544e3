//! A recorded command, given to our client.

use std::time::Duration;

use durable_taskhub::control::ControlError;
use durable_taskhub::list::Filter;
use durable_taskhub::names::InstanceId;
use durable_taskhub::purge::{PurgeError, PurgeRequest};
use durable_taskhub::restart::{RestartAs, RestartError};
use durable_taskhub::rewind::RewindError;
use durable_taskhub::start::{Overwrite, StartError, StartRequest};
use durable_taskhub::{RuntimeStatus, TaskHub, Time};
use serde_json::Value as Json;

/// What came of it.
pub enum Outcome {
    /// It was carried out.
    Done,
    /// It was refused with the error of this name.
    Refused(String),
    /// It reads only, or our client does not have it (yet).
    NotOurs,
}

/// The operations that our client has and that write.
const WRITES: [&str; 9] = ["start", "raise", "terminate", "suspend", "resume", "restart", "rewind", "purge", "purgeFilter"];

/// True for a command that this harness can judge.
pub fn writes(command: &Json) -> bool {
    WRITES.contains(&command["op"].as_str().unwrap_or_default())
}

/// Gives `command` to our client; the recording's name tells which official client it was.
pub async fn run(hub: &TaskHub, command: &Json, reply: &Json, recording: &str) -> Outcome {
    let text = |name: &str| command[name].as_str();
    let (operation, id) = (text("op").unwrap_or_default(), text("id").unwrap_or_default());
    match operation {
        "start" => {
            let Ok(instance_id) = InstanceId::new(id) else { return Outcome::Refused("InvalidInstanceId".into()) };
            let tags = command["tags"].as_object().into_iter().flatten();
            let request = StartRequest {
                instance_id,
                input: command.get("input").map(ToString::to_string),
                // The framework's client writes an empty version, the extension's none.
                version: (!recording.starts_with("ext")).then(String::new),
                tags: tags.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect(),
                // The recorded time has gone by: what lies ahead must lie ahead here, too.
                scheduled_start_time: text("at").map(|_| Time::now().saturating_add(Duration::from_secs(3600))),
                overwrite: Overwrite::Finished,
                ..StartRequest::new(text("name").unwrap_or_default())
            };
            match hub.start(request).await {
                Ok(()) => Outcome::Done,
                Err(StartError::AlreadyExists) => Outcome::Refused("AlreadyExists".into()),
                Err(error) => Outcome::Refused(format!("{error:?}")),
            }
        }
        "raise" => {
            let payload = command.get("data").map(ToString::to_string);
            control(hub.raise_event(id, text("event").unwrap_or_default(), payload.as_deref()).await)
        }
        "terminate" => control(hub.terminate(id, text("reason")).await),
        "suspend" => control(hub.suspend(id, text("reason")).await),
        "resume" => control(hub.resume(id, text("reason")).await),
        "restart" => {
            // A new ID is random: ours takes the one that the recorded client drew.
            let drawn = reply["result"].as_str().and_then(|id| InstanceId::new(id).ok()).unwrap_or_else(InstanceId::random);
            let restart_as = if command["newId"].as_bool() == Some(false) { RestartAs::Same } else { RestartAs::New(drawn) };
            match hub.restart(id, restart_as).await {
                Ok(_) => Outcome::Done,
                Err(RestartError::NotFound) => Outcome::Refused("NotFound".into()),
                Err(error) => Outcome::Refused(format!("{error:?}")),
            }
        }
        "rewind" => match hub.rewind(id, text("reason")).await {
            Ok(_) => Outcome::Done,
            Err(RewindError::Refused { refusal, .. }) => Outcome::Refused(variant(&refusal)),
            Err(error) => Outcome::Refused(variant(&error)),
        },
        "purge" => match hub.purge(id, false).await {
            Ok(_) => Outcome::Done,
            // The official client deletes nothing and says so; the same is an error here.
            Err(PurgeError::NotFound { .. }) if reply.pointer("/result/instancesDeleted") == Some(&0.into()) => Outcome::Done,
            Err(error) => Outcome::Refused(variant(&error)),
        },
        "purgeFilter" => {
            let statuses = command["statuses"].as_array().into_iter().flatten().filter_map(Json::as_str);
            let filter = Filter {
                statuses: statuses.map(RuntimeStatus::from_name).collect(),
                created_from: text("from").map(|from| Time::parse(from).unwrap()),
                created_to: text("to").map(|to| Time::parse(to).unwrap()),
                ..Filter::default()
            };
            match hub.purge_page(&PurgeRequest::new(filter)).await {
                Ok(page) if page.failures.is_empty() && page.continuation.is_none() => Outcome::Done,
                other => Outcome::Refused(format!("{other:?}")),
            }
        }
        _ => Outcome::NotOurs,
    }
}

/// `NotFailed` of `NotFailed { … }`.
fn variant(error: &impl std::fmt::Debug) -> String {
    format!("{error:?}").split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

fn control<T>(result: Result<T, ControlError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(ControlError::NotFound) => Outcome::Refused("NotFound".into()),
        Err(ControlError::NotStarted) => Outcome::Refused("NotStarted".into()),
        Err(ControlError::Finished(_)) => Outcome::Refused("Finished".into()),
        Err(error) => Outcome::Refused(format!("{error:?}")),
    }
}

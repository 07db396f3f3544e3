//! The three runs: what is expected of each, how they are shown, what came of them.
//!
//! The judgement is pure. Invariant: a run counts only if it reached exactly
//! what is written here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use durable_bed::BedError;
use futures::StreamExt;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;

use super::screen::Screen;
use super::servers::Servers;

/// Ages move, and dead processes are noticed, this often.
const TICK: Duration = Duration::from_secs(1);

/// What a run should come to.
#[derive(Debug, Clone, PartialEq)]
enum Expected {
    Output(Value),
    /// Its own input.
    Input,
    Failure(&'static str),
}

/// The runs of `tests/demo`, by the names of their objects.
fn expected() -> [(&'static str, Expected); 3] {
    [
        ("hello", Expected::Output(json!(["Hello Tokyo!", "Hello Seattle!", "Hello London!"]))),
        ("echo", Expected::Input),
        ("fail", Expected::Failure("Orchestrator function 'Fail' failed: no stock left for order 4711")),
    ]
}

/// The objects by name.
pub type Objects = BTreeMap<String, DynamicObject>;

/// How watching ended.
pub enum Watched {
    /// All runs have settled.
    Settled(Objects),
    /// Not all, and the time is over.
    TimedOut(Objects),
    /// Somebody wants to stop.
    Stopped,
}

/// Shows the runs until all have settled.
///
/// # Errors
/// If the operator or the worker ends.
pub async fn watch(
    config: kube::Config,
    screen: &Screen,
    servers: &mut Servers,
    stop: &mut Receiver<bool>,
    deadline: Instant,
) -> Result<Watched, BedError> {
    let client = kube::Client::try_from(config).map_err(|error| BedError::new(format!("no client for the API server: {error}")))?;
    let kind = GroupVersionKind::gvk("durable-operator.dev", "v1alpha1", "Orchestration");
    let api: Api<DynamicObject> = Api::default_namespaced_with(client, &ApiResource::from_gvk_with_plural(&kind, "orchestrations"));
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut table = screen.table(["NAME", "FUNCTION", "STATUS", "READY", "REASON", "AGE"]);
    let mut objects = Objects::new();
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(Watched::Stopped),
            () = tokio::time::sleep_until(deadline.into()) => return Ok(Watched::TimedOut(objects)),
            _ = tick.tick() => servers.check()?,
            event = events.next() => match event {
                // What the watch loses it gets again by itself; if it cannot, the deadline ends it.
                Some(Err(_)) | None => continue,
                Some(Ok(event)) => keep(&mut objects, event),
            },
        }
        let now = jiff::Timestamp::now();
        table.show(objects.values().map(|object| row(object, now)).collect());
        if expected().iter().all(|(name, _)| objects.get(*name).is_some_and(is_settled)) {
            return Ok(Watched::Settled(objects));
        }
    }
}

fn keep(objects: &mut Objects, event: watcher::Event<DynamicObject>) {
    let name = |object: &DynamicObject| object.metadata.name.clone().unwrap_or_default();
    match event {
        watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
            objects.insert(name(&object), object);
        }
        watcher::Event::Delete(object) => {
            objects.remove(&name(&object));
        }
        watcher::Event::Init => objects.clear(),
        watcher::Event::InitDone => {}
    }
}

fn row(object: &DynamicObject, now: jiff::Timestamp) -> [String; 6] {
    let text = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let ready = condition(object, "Ready");
    let of_ready = |field: &str| ready.and_then(|ready| ready[field].as_str()).unwrap_or_default().to_owned();
    let created = object.metadata.creation_timestamp.as_ref().map_or(now, |created| created.0);
    [
        object.metadata.name.clone().unwrap_or_default(),
        text("/spec/functionName"),
        text("/status/runtimeStatus"),
        of_ready("status"),
        of_ready("reason"),
        age(now.duration_since(created).as_secs()),
    ]
}

fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ ..120 => format!("{seconds}s"),
        seconds => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

fn condition<'a>(object: &'a DynamicObject, kind: &str) -> Option<&'a Value> {
    object.data.pointer("/status/conditions")?.as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn holds(object: &DynamicObject, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}

fn is_settled(object: &DynamicObject) -> bool {
    object.data.pointer("/status/settled") == Some(&Value::Bool(true))
}

/// Says of each run what came of it; true if all of it was expected.
pub fn conclude(screen: &Screen, objects: &Objects) -> bool {
    screen.say("");
    let mut all = true;
    for (name, expected) in expected() {
        match judge(objects.get(name), &expected) {
            Ok(text) => screen.say(&format!("{name:5}  {text}")),
            Err(text) => {
                all = false;
                screen.say(&format!("{name:5}  NOT AS EXPECTED: {text}"));
            }
        }
    }
    all
}

/// What came of a run, or how it differs from what is expected.
fn judge(object: Option<&DynamicObject>, expected: &Expected) -> Result<String, String> {
    let Some(object) = object else { return Err("the object is not there".to_owned()) };
    let (output, failure) = (object.data.pointer("/status/output"), object.data.pointer("/status/failure/message"));
    let wanted = match expected {
        Expected::Output(output) => Some(output),
        Expected::Input => object.data.pointer("/spec/input/value"),
        Expected::Failure(message) => {
            return match failure.and_then(Value::as_str) {
                Some(said) if holds(object, "Failed") && said == *message => Ok(format!("failed as expected: {said}")),
                _ => Err(format!("expected the failure: {message}\n       {}", state(object))),
            };
        }
    };
    match (output, wanted) {
        (Some(output), Some(wanted)) if holds(object, "Complete") && output == wanted => Ok(format!("completed: {output}")),
        _ => Err(format!("expected the output {}\n       {}", wanted.unwrap_or(&Value::Null), state(object))),
    }
}

fn state(object: &DynamicObject) -> String {
    let ready = condition(object, "Ready").map_or("no Ready condition".to_owned(), |ready| {
        let field = |name: &str| ready[name].as_str().unwrap_or_default();
        format!("Ready={}, {}: {}", field("status"), field("reason"), field("message"))
    });
    let status = |field: &str| object.data.pointer(&format!("/status/{field}")).map_or("none".to_owned(), Value::to_string);
    format!("has {ready}; output {}, failure {}", status("output"), status("failure"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(status: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": {"name": "echo"},
            "spec": {"functionName": "Echo", "input": {"value": {"order": 4711, "count": 2}}}, "status": status,
        }))
        .unwrap()
    }

    fn ended(condition: &str, more: Value) -> DynamicObject {
        let mut status = json!({"settled": true, "conditions": [{"type": condition, "status": "True", "reason": "R"}]});
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object(status)
    }

    #[test]
    fn only_what_is_expected_counts() {
        let echoed = ended("Complete", json!({"output": {"count": 2, "order": 4711}}));
        assert!(judge(Some(&echoed), &Expected::Input).is_ok(), "the order of the keys means nothing");
        assert!(judge(Some(&echoed), &Expected::Output(json!("something else"))).is_err());
        assert!(judge(Some(&echoed), &Expected::Failure("no stock")).is_err());
        let other = ended("Complete", json!({"output": {"count": 3, "order": 4711}}));
        assert!(judge(Some(&other), &Expected::Input).is_err());
        let without_condition = ended("Ready", json!({"output": {"count": 2, "order": 4711}}));
        assert!(judge(Some(&without_condition), &Expected::Input).is_err());
        let failed = ended("Failed", json!({"failure": {"message": "no stock"}}));
        assert!(judge(Some(&failed), &Expected::Failure("no stock")).is_ok());
        assert!(judge(Some(&failed), &Expected::Failure("stock")).is_err());
        assert!(judge(Some(&failed), &Expected::Input).is_err());
        assert!(judge(Some(&object(json!({}))), &Expected::Input).is_err());
        assert!(judge(None, &Expected::Input).is_err());
    }

    #[test]
    fn a_run_without_status_is_shown_and_not_settled() {
        let waiting = object(json!(null));
        assert!(!is_settled(&waiting));
        assert_eq!(row(&waiting, jiff::Timestamp::now()), ["echo", "Echo", "", "", "", "0s"].map(str::to_owned));
        assert_eq!([0, 119, 120, 3723].map(age), ["0s", "119s", "2m0s", "62m3s"].map(str::to_owned));
    }
}

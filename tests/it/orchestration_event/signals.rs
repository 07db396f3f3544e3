//! Signals of entities. The worker runs none: a signal is judged by the message in the hub, against a recording of the engine's own client.

use std::path::Path;

use durable_bed::recording::{Recording, Snapshot};
use durable_taskhub::message::{Decoded, Message};
use serde_json::{Value, json};

use super::message;
use crate::support::{World, eventually};

/// The visible messages of all queues, in the order of queues.
fn messages(snapshot: &Snapshot) -> Vec<Value> {
    let texts = snapshot.queues.values().flat_map(|queue| &queue.messages);
    let json = |text: &str| match Message::decode(text).unwrap() {
        Decoded::Message(message) => message.to_json(),
        Decoded::Wrapper { blob_name } => panic!("{blob_name} is large"),
    };
    texts.map(|message| serde_json::from_str(&json(&message.text)).unwrap()).collect()
}

fn request(message: &Value) -> Value {
    serde_json::from_str(message["TaskMessage"]["Event"]["Input"].as_str().unwrap()).unwrap()
}

/// The message without what differs from one to the next.
fn normal(mut message: Value) -> Value {
    let mut request = request(&message);
    request["id"] = json!("<any>");
    message["TaskMessage"]["Event"]["Input"] = json!(request.to_string());
    message["TaskMessage"]["Event"]["Timestamp"] = json!("<any>");
    message["ActivityId"] = json!("<any>");
    message["SequenceNumber"] = json!("<any>");
    message
}

impl World {
    async fn waiting_messages(&self) -> Vec<Value> {
        messages(&Snapshot::take(&self.storage(), &self.hub_name, "now").await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_is_the_message_of_the_engines_own_client() {
    let recording = Recording::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hub/ext__durable__entity.json.gz")).unwrap();
    let recorded = messages(recording.snapshot("signalled").unwrap());
    let world = World::new("event_signal").await;
    let _operator = world.operator().await;
    world.ready_hub().await;
    for (name, input) in [("first", 3), ("second", 4)] {
        world.event(name, json!({"entity": {"name": "Counter", "key": "k1"}, "operation": "add", "payload": {"value": input}}));
        let status = world.event_reason(name, "Sent").await;
        assert_eq!(status.instance_id.as_deref(), Some("@counter@k1"));
    }
    let sent: Vec<String> = world.waiting_messages().await.into_iter().map(|message| normal(message).to_string()).collect();
    let expected: Vec<String> = recorded.into_iter().map(|message| normal(message).to_string()).collect();
    assert_eq!(expected.len(), 2, "the recording shows its two signals");
    assert_eq!(sent, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_waits_for_nothing_but_its_hub() {
    let world = World::new("event_entity").await;
    let _operator = world.operator().await;
    world.event("early", json!({"entity": {"name": "counter", "key": "a"}, "operation": "reset"}));
    world.event_reason("early", "TaskHubNotFound").await;
    world.event("exact", json!({"entity": {"name": "counter", "key": "a"}, "operation": "add", "payload": {"text": "5.0 "}}));
    world.event("impossible", json!({"entity": {"name": "c".repeat(128), "key": "k".repeat(128)}, "operation": "add"}));
    let status = world.event_reason("impossible", "InvalidInstanceId").await;
    assert!(message(&status).contains("at most 256 characters"), "{}", message(&status));
    world.ready_hub().await;
    world.event_reason("early", "Sent").await;
    world.event_reason("exact", "Sent").await;
    let sent = eventually("both signals are in the queue", async || {
        let sent = world.waiting_messages().await;
        if sent.len() == 2 { Ok(sent) } else { Err(format!("{sent:?}")) }
    })
    .await;
    let mut requests: Vec<Value> = sent.iter().map(request).collect();
    requests.sort_by_key(|request| request["op"].as_str().unwrap().to_owned());
    assert_eq!((&requests[0]["op"], &requests[0]["input"]), (&json!("add"), &json!("5.0 ")), "the text byte for byte");
    assert_eq!((&requests[1]["op"], requests[1].get("input")), (&json!("reset"), None));
}

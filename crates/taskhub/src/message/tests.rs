//! Against the recordings of the released engine, byte for byte.

use std::io::Read as _;

use super::*;
use crate::event::OrchestrationStatus;
use crate::storage::{Entity, Value as Column};

const RECORDINGS: [&[u8]; 10] = [
    include_bytes!("../../../../tests/golden/hub/ext__durable__start_hello.json.gz"),
    include_bytes!("../../../../tests/golden/hub/ext__durable__start_echo_array.json.gz"),
    include_bytes!("../../../../tests/golden/hub/ext__durable__start_echo_date.json.gz"),
    include_bytes!("../../../../tests/golden/hub/ext__durable__start_echo_null.json.gz"),
    include_bytes!("../../../../tests/golden/hub/ext__durable__start_echo_number.json.gz"),
    include_bytes!("../../../../tests/golden/hub/ext__durable__start_echo_object.json.gz"),
    include_bytes!("../../../../tests/golden/hub/ext__durable__start_echo_string.json.gz"),
    include_bytes!("../../../../tests/golden/hub/ext__durable__start_fail.json.gz"),
    include_bytes!("../../../../tests/golden/hub/ext__durable__start_unknown_name.json.gz"),
    include_bytes!("../../../../tests/golden/hub/ext__durable__timer.json.gz"),
];

fn snapshots(recording: &[u8]) -> Vec<Value> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(recording).read_to_string(&mut text).unwrap();
    let recording: Value = serde_json::from_str(&text).unwrap();
    recording["steps"].as_array().unwrap().iter().filter(|step| step["step"] == "snapshot").cloned().collect()
}

fn texts(snapshot: &Value) -> Vec<String> {
    let queues = snapshot["queues"].as_object().unwrap().values();
    let messages = queues.flat_map(|queue| queue["messages"].as_array().unwrap());
    messages.map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

fn message(text: &str) -> Message {
    match Message::decode(text) {
        Ok(Decoded::Message(message)) => *message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_recorded_start_is_made_byte_for_byte() {
    let snapshot = &snapshots(RECORDINGS[0])[0];
    let text = &texts(snapshot)[0];
    let recorded: Value = serde_json::from_str(text).unwrap();
    let event = &recorded["TaskMessage"]["Event"];
    let started =
        ExecutionStarted::new("hellosequence-1", event["OrchestrationInstance"]["ExecutionId"].as_str().unwrap(), "HelloSequence", None);
    let mut made = Message::start(started, Time::parse(event["Timestamp"].as_str().unwrap()).unwrap(), 1);
    made.activity_id = recorded["ActivityId"].as_str().unwrap().parse().unwrap();
    assert_eq!(made.to_json(), *text);
    assert_eq!(made.encode().unwrap(), STANDARD.encode(text));
}

#[test]
fn recorded_messages_survive_decoding_and_encoding() {
    let mut seen = 0;
    for text in RECORDINGS.iter().flat_map(|recording| snapshots(recording)).flat_map(|snapshot| texts(&snapshot)) {
        let decoded = message(&text);
        assert_eq!(decoded.to_json(), text);
        assert_eq!(message(&decoded.encode().unwrap()), decoded);
        seen += 1;
    }
    assert_eq!(seen, 9);
}

#[test]
fn recorded_history_rows_survive_reading_and_writing() {
    let mut seen = std::collections::BTreeMap::new();
    for snapshot in RECORDINGS.iter().flat_map(|recording| snapshots(recording)) {
        let history = snapshot["tables"].as_object().unwrap().iter().find(|(name, _)| name.ends_with("History")).unwrap().1;
        for (ordinal, row) in history.as_array().unwrap().iter().filter(|row| row["RowKey"]["value"] != "sentinel").enumerate() {
            let text = |name: &str| row[name]["value"].as_str().unwrap();
            let mut recorded = Entity::new(text("PartitionKey"), text("RowKey"));
            for (name, cell) in row.as_object().unwrap() {
                if ["PartitionKey", "RowKey", "Timestamp"].contains(&name.as_str()) {
                    continue;
                }
                let value = &cell["value"];
                let column = match cell["type"].as_str().unwrap() {
                    "Edm.String" => Column::String(value.as_str().unwrap().to_owned()),
                    "Edm.Int32" => Column::Int32(i32::try_from(value.as_i64().unwrap()).unwrap()),
                    "Edm.Boolean" => Column::Boolean(value.as_bool().unwrap()),
                    "Edm.DateTime" => Column::DateTime(Time::parse(value.as_str().unwrap()).unwrap()),
                    other => panic!("{other}"),
                };
                recorded.set(name.as_str(), column);
            }
            let event = Event::from_row(&recorded).unwrap();
            assert!(!matches!(event.kind, EventKind::Other { .. }));
            assert_eq!(event.to_row(text("PartitionKey"), ordinal as u64, text("ExecutionId")), recorded);
            *seen.entry(event.kind.event_type().to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
}

#[test]
fn every_kind_of_event_survives_message_and_row() {
    let time = Time::parse("2026-11-23T07:29:23.872056Z").unwrap();
    let text = |text: &str| Some(text.to_owned());
    let failure = crate::event::FailureDetails {
        error_type: text("System.ApplicationException"),
        error_message: text("outer"),
        stack_trace: None,
        inner_failure: None,
        is_non_retriable: false,
        properties: None,
    };
    let trace = crate::event::TraceContext {
        trace_parent: text("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        trace_state: None,
        id: None,
        span_id: None,
        activity_start_time: None,
    };
    let status = OrchestrationStatus::Completed;
    let kinds = [
        EventKind::ExecutionCompleted { status, result: text("1"), failure_details: None },
        EventKind::ExecutionTerminated { input: text("reason") },
        EventKind::TaskScheduled { name: "A".into(), version: text(""), input: None, parent_trace_context: None, tags: None },
        EventKind::TaskCompleted { task_scheduled_id: 3, result: text("1") },
        EventKind::TaskFailed { task_scheduled_id: 3, reason: text("r"), details: None, failure_details: Some(failure.clone()) },
        EventKind::SubOrchestrationInstanceCreated {
            name: "S".into(),
            version: None,
            instance_id: "child".into(),
            input: None,
            tags: Some(vec![("a".into(), "b".into())]),
            client_span_id: None,
        },
        EventKind::SubOrchestrationInstanceCompleted { task_scheduled_id: 1, result: None },
        EventKind::SubOrchestrationInstanceFailed { task_scheduled_id: 1, reason: None, details: text("d"), failure_details: None },
        EventKind::TimerCreated { fire_at: time },
        EventKind::TimerFired { timer_id: 0, fire_at: time },
        EventKind::OrchestratorStarted,
        EventKind::OrchestratorCompleted,
        EventKind::EventSent { instance_id: "@counter@a".into(), name: text("op"), input: text("{}") },
        EventKind::EventRaised { name: text("Approval"), input: text("true"), parent_trace_context: Some(trace) },
        EventKind::ContinueAsNew { status: OrchestrationStatus::ContinuedAsNew, result: text("1"), failure_details: None },
        EventKind::GenericEvent { data: text("again") },
        EventKind::ExecutionSuspended { reason: text("r") },
        EventKind::ExecutionResumed { reason: None },
    ];
    for kind in kinds {
        let event = Event::with_id(7, time, kind);
        assert_eq!(Event::from_row(&event.to_row("i", 10, "e")).unwrap(), event);
        let sent = Message::new("i", Some("e"), event, 5);
        assert!(sent.to_json().contains(r#""Event":{"$type":"DurableTask.Core.History."#));
        assert_eq!(message(&sent.encode().unwrap()), sent);
    }
}

#[test]
fn generic_and_terminate_messages_have_the_members_of_the_specification() {
    let time = Time::parse("2025-03-14T09:26:53.5897932Z").unwrap();
    let json = |kind| Message::new("order-1001", None, Event::new(time, kind), 1).to_json();
    assert!(json(EventKind::GenericEvent { data: Some("retry after fix".into()) }).contains(
        r#""Event":{"$type":"DurableTask.Core.History.GenericEvent","Data":"retry after fix","EventType":17,"EventId":-1,"IsPlayed":false,"Timestamp":"2025-03-14T09:26:53.5897932Z"},"SequenceNumber":0,"OrchestrationInstance":{"$type":"DurableTask.Core.OrchestrationInstance","InstanceId":"order-1001","ExecutionId":null}"#
    ));
    assert!(
        json(EventKind::ExecutionTerminated { input: None })
            .contains(r#"{"$type":"DurableTask.Core.History.ExecutionTerminatedEvent","EventType":3,"Input":null,"EventId":-1,"#)
    );
}

#[test]
fn texts_are_escaped_as_newtonsoft_does() {
    let value = Value::from("\"\\\u{8}\t\n\u{c}\r\u{1}\u{1f}\u{7f}\u{85}\u{2028}\u{2029}é<'/日");
    assert_eq!(newtonsoft(&value), "\"\\\"\\\\\\b\\t\\n\\f\\r\\u0001\\u001f\u{7f}\\u0085\\u2028\\u2029é<'/日\"");
}

const MINIMAL: &str = r#"{"TaskMessage":{"Event":{"$type":"DurableTask.Core.History.ExecutionStartedEvent","OrchestrationInstance":{"InstanceId":"a","ExecutionId":"E"},"Name":"N","Timestamp":"2026-11-23T07:29:23Z"},"OrchestrationInstance":{"InstanceId":"a","ExecutionId":"E"}}}"#;

#[test]
fn reading_is_as_tolerant_as_the_engine() {
    let plain = message(MINIMAL);
    assert_eq!((plain.instance_id.as_str(), plain.execution_id.as_deref(), plain.sender.clone()), ("a", Some("E"), None));
    let lower = MINIMAL.replace("TaskMessage", "taskMessage").replace("InstanceId", "instanceid").replace("Name", "name");
    let suffixed = lower.replace("ExecutionStartedEvent", "ExecutionStartedEvent, DurableTask.Core");
    let unknown = suffixed.replace(r#""name""#, r#""Foo":{"$type":"Bar"},"name""#);
    let indented = STANDARD.encode(format!(" \n{unknown}"));
    assert_eq!(message(&indented), plain);
}

#[test]
fn what_stalls_the_engine_is_refused() {
    let error = |text: &str| Message::decode(text).unwrap_err();
    let event = |from: &str, to: &str| {
        let changed = MINIMAL.replace(from, to);
        assert_ne!(changed, MINIMAL);
        error(&changed)
    };
    for text in ["hello world", "", "\u{feff}{}", "e30", "e30-", " {}"] {
        assert_eq!(error(text), if text.is_empty() { MessageError::NotJson } else { MessageError::NotBase64 }, "{text}");
    }
    assert_eq!(error(&STANDARD.encode("\u{feff}{}")), MessageError::NotJson);
    assert_eq!(error(&"a".repeat(MAX_TEXT_BYTES + 4)), MessageError::TooLong { limit: MAX_TEXT_BYTES });
    assert_eq!(error("{}"), EventError::Missing("TaskMessage").into());
    assert_eq!(error(r#"{"TaskMessage":{}}"#), EventError::Missing("Event").into());
    assert_eq!(error(r#"{"ActivityId":null}"#), MessageError::ActivityId);
    assert_eq!(event(r#""$type":"#, r#""x":0,"$type":"#), EventError::TypeNotFirst.into());
    assert_eq!(
        event("ExecutionStartedEvent", "ExecutionRewoundEvent"),
        EventError::UnknownType("DurableTask.Core.History.ExecutionRewoundEvent".into()).into()
    );
    assert_eq!(
        event("07:29:23Z", "07:29:23+00:00"),
        EventError::Malformed { member: "Timestamp", expected: "a time in UTC that ends in Z" }.into()
    );
    assert_eq!(event(r#""Name":"N","#, ""), EventError::Missing("Name").into());
    assert_eq!(
        event(r#","OrchestrationInstance":{"InstanceId":"a","ExecutionId":"E"}}}"#, "}}"),
        EventError::Missing("OrchestrationInstance").into()
    );
    let raised = r#"{"TaskMessage":{"Event":{"$type":"DurableTask.Core.History.EventRaisedEvent","Name":"E","Input":"1"},"OrchestrationInstance":{"InstanceId":"a"}}}"#;
    assert_eq!(error(raised), MessageError::NoSender);
    assert!(Message::decode(&raised.replace("}}}", r#"}},"Sender":{}}"#)).is_ok());
}

#[test]
fn large_messages_are_told_by_their_wrapper_and_their_size() {
    let blob_name = "order-1001/message-5406d36943694673afae6671a2fa1e57-ExecutionStarted.json.gz";
    let wrapper = Message::wrapper_json(blob_name);
    assert_eq!(
        wrapper,
        format!(
            r#"{{"$type":"DurableTask.AzureStorage.MessageData","ActivityId":"00000000-0000-0000-0000-000000000000","TaskMessage":null,"CompressedBlobName":"{blob_name}","SequenceNumber":0,"Sender":null,"SerializableTraceContext":null}}"#
        )
    );
    for text in [wrapper.clone(), STANDARD.encode(&wrapper)] {
        assert_eq!(Message::decode(&text), Ok(Decoded::Wrapper { blob_name: blob_name.to_owned() }));
    }
    assert!(Message::from_blob(wrapper.as_bytes()).is_err());

    let with_input = |length: usize| Message::start(ExecutionStarted::new("a", "e", "Echo", Some("x".repeat(length))), Time::now(), 1);
    let overhead = with_input(0).to_json().len();
    let (fits, does_not) = (with_input(MAX_INLINE_BYTES - overhead - 20), with_input(MAX_INLINE_BYTES));
    assert_eq!(message(&fits.encode().unwrap()), fits);
    assert_eq!(does_not.encode(), Err(TooLargeForQueue { bytes: does_not.to_json().len() }));
    assert_eq!(Message::from_blob(does_not.to_json().as_bytes()), Ok(does_not));
}

#[test]
fn values_in_blobs_and_unknown_rows_are_not_mistaken() {
    let time = Time::now();
    let mut row = Event::new(time, EventKind::TaskCompleted { task_scheduled_id: 0, result: Some(String::new()) }).to_row("i", 0, "e");
    row.set("ResultBlobName", "i/history-x.json.gz");
    assert_eq!(Event::from_row(&row), Err(EventError::LargeValue("Result".into())));
    row.columns.remove("ResultBlobName");
    row.set("EventType", "SomethingNew");
    let event = Event::from_row(&row).unwrap();
    assert_eq!(event.kind.event_type(), "SomethingNew");
    assert_eq!(event.to_row("i", 0, "e"), row);
}

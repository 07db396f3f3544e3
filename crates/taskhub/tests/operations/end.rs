//! Ends by the history: of every recording, and where row, leftovers and rewinds mislead.

use std::io::Write as _;
use std::path::Path;

use durable_bed::recording::Recording;
use durable_taskhub::end::{End, Ending};
use durable_taskhub::event::{Event, EventKind, FailureDetails, OrchestrationStatus};
use durable_taskhub::history::HistoryOptions;
use durable_taskhub::names::unescape_key;
use durable_taskhub::payload::Payload;
use durable_taskhub::storage::{Condition, Entity, Value};
use durable_taskhub::{RuntimeStatus, TaskHub, Time};

use crate::support::{World, counted, recording};

async fn ended(hub: &TaskHub, id: &str) -> End {
    match hub.end_of(id).await.unwrap() {
        Ending::Ended(end) => end,
        other => panic!("{id}: {other:?}"),
    }
}

/// What the whole history says.
async fn by_all_events(hub: &TaskHub, id: &str) -> Option<Option<RuntimeStatus>> {
    let page = hub.history(id, &HistoryOptions::default(), None).await.unwrap();
    assert!(page.next.is_none());
    let mut ends = page.events.iter().filter_map(|event| match &event.event.kind {
        EventKind::ExecutionCompleted { status, .. } => Some(RuntimeStatus::from_name(status.as_str())),
        _ => None,
    });
    page.execution_id.map(|_| ends.next_back())
}

#[tokio::test]
async fn the_end_of_every_recorded_instance_is_found() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let (mut open, mut ends) = (0, 0);
    for path in ["hub", "hub-1x"].iter().flat_map(|folder| std::fs::read_dir(golden.join(folder)).unwrap()) {
        let recording = Recording::read(&path.unwrap().path()).unwrap();
        for label in ["failed", "rewound", "done", "completed", "before", "continued twice"] {
            if recording.snapshot(label).is_none() {
                continue;
            }
            let world = World::of(&recording, label).await;
            for row in recording.snapshot(label).unwrap().rows("Instances") {
                let id = unescape_key(row["PartitionKey"].value.as_str().unwrap());
                let found = match world.hub.end_of(&id).await.unwrap() {
                    Ending::NoHistory => None,
                    Ending::Open { .. } => Some(None),
                    Ending::Ended(end) => Some(Some(end.status)),
                };
                assert_eq!(found, by_all_events(&world.hub, &id).await, "{} {label} {id}", recording.scenario);
                match found {
                    Some(Some(_)) => ends += 1,
                    _ => open += 1,
                }
            }
        }
    }
    assert!(ends > 40 && open > 10, "{ends} {open}");
}

#[tokio::test]
async fn an_end_costs_one_request_and_tells_result_failure_and_time() {
    let world = World::of(&recording("hub/ext__durable__start_big_output"), "done").await;
    let (proxy, hub) = world.proxied().await;
    let end = ended(&hub, "bigoutput-1").await;
    assert_eq!(counted(&proxy.requests()), "1 GET Table");
    assert_eq!(end.status, RuntimeStatus::Completed);
    let result = end.result.unwrap();
    assert!(matches!(result, Payload::Blob(_)));
    let row = hub.get("bigoutput-1").await.unwrap().unwrap();
    assert_eq!(Some(end.execution_id), row.execution_id);
    // The row names the blob by a URL that is not the proxy's.
    let output = world.hub.get("bigoutput-1").await.unwrap().unwrap().output.unwrap();
    assert!(hub.fetch(&result, 1 << 20).await.unwrap() == world.hub.fetch(&output, 1 << 20).await.unwrap());
    // The row's time is that of the same checkpoint.
    assert!(row.last_updated_time.unwrap().since(end.completed_time.unwrap()).as_secs() < 5);

    // Thousands of rows cost the same.
    world.instance("long", "Completed", 3000).await;
    proxy.clear();
    let end = ended(&hub, "long").await;
    assert_eq!((end.result, end.failure), (Some(Payload::Inline("\"the result\"".to_owned())), None));
    assert_eq!(counted(&proxy.requests()), "1 GET Table");
}

#[tokio::test]
async fn failure_details_are_read_from_row_and_blob_and_do_not_hide_the_end() {
    let world = World::new().await;
    let failure = FailureDetails {
        error_type: Some("System.InvalidOperationException".to_owned()),
        error_message: Some("no stock".to_owned()),
        stack_trace: None,
        inner_failure: None,
        is_non_retriable: false,
        properties: Some(r#"{"a":1.50,"b":[]}"#.to_owned()),
    };
    let kind = EventKind::ExecutionCompleted {
        status: OrchestrationStatus::Failed,
        result: Some("no stock".to_owned()),
        failure_details: Some(failure.clone()),
    };
    world.instance("failed", "Running", 3).await;
    let row = Event::new(Time::now(), kind).to_row("failed", 3, "E");
    world.table("History").insert(&row).await.unwrap();
    let (proxy, hub) = world.proxied().await;
    let end = ended(&hub, "failed").await;
    assert_eq!((end.status, end.result), (RuntimeStatus::Failed, Some(Payload::Inline("no stock".to_owned()))));
    let properties = end.failure.as_ref().unwrap().properties.clone();
    assert_eq!((end.failure.unwrap().error_type, properties.as_deref()), (failure.error_type.clone(), Some(r#"{"a":1.5,"b":[]}"#)));

    let Some(Value::String(text)) = row.columns.get("FailureDetails") else { panic!("{row:?}") };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    let container = world.hub.storage().container(&world.hub.name().large_messages_container());
    world.blob("failed/history-x-FailureDetails.json.gz").await;
    container.put("failed/history-x-FailureDetails.json.gz", gzip.finish().unwrap(), true).await.unwrap();
    let large = Entity::new("failed", row.row_key.as_str())
        .with("FailureDetails", "")
        .with("FailureDetailsBlobName", "failed/history-x-FailureDetails.json.gz");
    world.table("History").merge(&large, Condition::Any).await.unwrap();
    proxy.clear();
    assert_eq!(ended(&hub, "failed").await.failure.unwrap().error_type, failure.error_type);
    assert_eq!(counted(&proxy.requests()), "1 GET Blob, 1 GET Table");

    // Damaged, and gone.
    world.blob("failed/history-x-FailureDetails.json.gz").await;
    assert_eq!(ended(&hub, "failed").await.failure, None);
    container.delete("failed/history-x-FailureDetails.json.gz").await.unwrap();
    let end = ended(&hub, "failed").await;
    assert_eq!((end.failure, end.status), (None, RuntimeStatus::Failed));
}

#[tokio::test]
async fn rows_statuses_leftovers_and_rewinds_are_no_ends() {
    let world = World::new().await;
    assert_eq!(world.hub.end_of("missing").await.unwrap(), Ending::NoHistory);
    // A start that no worker took up, and one that was terminated before (engine-experiments.md 5.1).
    world.instance("pending", "Pending", 0).await;
    world.instance("terminated", "Terminated", 0).await;
    for id in ["pending", "terminated"] {
        assert_eq!(world.hub.end_of(id).await.unwrap(), Ending::NoHistory, "{id}");
    }
    // The row says Terminated, the instance runs on (5.10).
    let open = || Ending::Open { execution_id: "E".to_owned() };
    world.instance("it's/alive", "Running", 3).await;
    world.table("Instances").merge(&Entity::new("it's^0alive", "").with("RuntimeStatus", "Terminated"), Condition::Any).await.unwrap();
    assert_eq!(world.hub.end_of("it's/alive").await.unwrap(), open());
    // An end of a longer run of the same ID.
    let end = EventKind::ExecutionCompleted { status: OrchestrationStatus::Completed, result: None, failure_details: None };
    world.table("History").insert(&Event::new(Time::now(), end).to_row("it's^0alive", 7, "OLDER")).await.unwrap();
    assert_eq!(world.hub.end_of("it's/alive").await.unwrap(), open());

    let recording = recording("hub/ext__durable__rewind_parent_child");
    let world = World::of(&recording, "failed").await;
    assert_eq!(ended(&world.hub, "rewind-3").await.status, RuntimeStatus::Failed);
    world.hub.rewind("rewind-3", None).await.unwrap();
    for id in ["rewind-3", "rewind-3-child"] {
        assert!(matches!(world.hub.end_of(id).await.unwrap(), Ending::Open { .. }), "{id}");
    }
}

//! Rewinds: what is written equals what the official client wrote, and any interruption is finished.

use durable_bed::proxy::Fault;
use durable_bed::recording::{Recording, difference};
use durable_taskhub::RuntimeStatus;
use durable_taskhub::message::{Decoded, Message};
use durable_taskhub::rewind::{RewindError, RewindRefusal, Rewound};
use durable_taskhub::storage::{Condition, Entity};
use serde_json::Value as Json;

use crate::support::{World, recording};

const RECORDINGS: [(&str, &str); 9] = [
    ("hub/ext__durable__rewind_flaky", "rewind-1"),
    ("hub/ext__durable__rewind_fail_once", "rewind-2"),
    ("hub/ext__durable__rewind_parent_child", "rewind-3"),
    ("hub/dtfx__durable__rewind_flaky", "rewind-1"),
    ("hub/dtfx__durable__rewind_fail_once", "rewind-2"),
    ("hub/dtfx__durable__rewind_parent_child", "rewind-3"),
    ("hub-1x/dtfx1x__dtfx1x__rewind_flaky", "rewind-1"),
    ("hub-1x/dtfx1x__dtfx1x__rewind_fail_once", "rewind-2"),
    ("hub-1x/dtfx1x__dtfx1x__rewind_parent_child", "rewind-3"),
];

/// Rows and messages, without when the service stored a row, and without the number by which ours sort after starts.
fn state(lines: Vec<String>) -> Vec<String> {
    let kept = |line: &String| {
        (line.contains("Instances") || line.contains("History") || line.starts_with("queue")) && !line.contains("] Timestamp")
    };
    let numbered = |line: String| match line.rfind("\"SequenceNumber\":") {
        Some(at) => {
            let (left, right) = line.split_at(at + "\"SequenceNumber\":".len());
            format!("{left}<number>{}", right.trim_start_matches(|digit: char| digit.is_ascii_digit()))
        }
        None => line,
    };
    lines.into_iter().filter(kept).map(numbered).collect()
}

async fn now(world: &World) -> Vec<String> {
    state(world.lines().await)
}

fn recorded(recording: &Recording, label: &str) -> Vec<String> {
    state(recording.snapshot(label).unwrap().normalised(&recording.hub))
}

fn refusal(error: RewindError) -> RewindRefusal {
    match error {
        RewindError::Refused { refusal, .. } => refusal,
        other => panic!("{other}"),
    }
}

/// The messages that wait, decoded.
async fn messages(world: &World) -> Vec<Message> {
    let snapshot = world.snapshot().await;
    let texts = snapshot.queues.values().flat_map(|queue| &queue.messages).map(|message| message.text.clone());
    texts
        .map(|text| match Message::decode(&text).unwrap() {
            Decoded::Message(message) => *message,
            Decoded::Wrapper { .. } => panic!("a wrapper"),
        })
        .collect()
}

#[tokio::test]
async fn what_is_written_equals_what_the_official_clients_wrote() {
    for (path, id) in RECORDINGS {
        let recording = recording(path);
        let world = World::of(&recording, "failed").await;
        let done = world.hub.rewind(id, Some("healed")).await.unwrap();
        assert!(matches!(done, Rewound::Done { messages: 1, .. }), "{done:?}");
        assert_eq!(difference(&recorded(&recording, "rewound"), &now(&world).await), None, "{path}");
    }
}

#[tokio::test]
async fn a_rewind_that_is_under_way_or_over_writes_nothing() {
    for (path, id) in RECORDINGS {
        let recording = recording(path);
        let world = World::of(&recording, "completed").await;
        let before = now(&world).await;
        let error = world.hub.rewind(id, None).await.unwrap_err();
        assert_eq!(refusal(error), RewindRefusal::NotFailed(RuntimeStatus::Completed));
        assert_eq!(difference(&before, &now(&world).await), None, "{path}");
    }
    // Woken, and not yet ended.
    let recording = recording("hub/ext__durable__rewind_flaky");
    let world = World::of(&recording, "completed").await;
    for ordinal in 0x10..0x18 {
        world.table("History").delete("rewind-1", &format!("{ordinal:016X}"), Condition::Any).await.unwrap();
    }
    world.table("Instances").merge(&Entity::new("rewind-1", "").with("RuntimeStatus", "Pending"), Condition::Any).await.unwrap();
    let before = now(&world).await;
    assert_eq!(world.hub.rewind("rewind-1", None).await.unwrap(), Rewound::UnderWay);
    assert_eq!(difference(&before, &now(&world).await), None);
}

/// Cut off before, or after, each write in turn; then once more without a cut.
#[tokio::test]
async fn a_rewind_cut_off_at_each_of_its_writes_is_finished_by_the_next() {
    for (path, id, total) in [("hub/ext__durable__rewind_flaky", "rewind-1", 3), ("hub/ext__durable__rewind_parent_child", "rewind-3", 5)] {
        let recording = recording(path);
        let expected = recorded(&recording, "rewound");
        for writes in 0..=total {
            let world = World::of(&recording, "failed").await;
            let (proxy, hub) = world.proxied().await;
            let mut left = writes;
            proxy.rule(move |request| {
                left -= i32::from(request.is_write());
                if request.is_write() && left < 0 { Fault::CutBefore } else { Fault::Pass }
            });
            assert_eq!(hub.rewind(id, Some("healed")).await.is_ok(), writes == total, "{writes}");
            if writes < total {
                world.hub.rewind(id, Some("healed")).await.unwrap();
                assert_eq!(difference(&expected, &now(&world).await), None, "{path} before write {writes}");
            }

            // The write happened, and its answer was lost. The last one is the message, which is then there twice: harmless (7.7).
            let world = World::of(&recording, "failed").await;
            let (proxy, hub) = world.proxied().await;
            let mut left = writes;
            proxy.rule(move |request| {
                left -= i32::from(request.is_write());
                if request.is_write() && left == 0 { Fault::CutAfter } else { Fault::Pass }
            });
            let cut = hub.rewind(id, Some("healed")).await;
            assert_eq!(cut.is_ok(), writes == 0, "{writes}");
            if writes > 0 {
                world.hub.rewind(id, Some("healed")).await.unwrap();
                let sent = messages(&world).await.len();
                assert_eq!(sent, if writes == total { 2 } else { 1 });
                if sent == 1 {
                    assert_eq!(difference(&expected, &now(&world).await), None, "{path} after write {writes}");
                }
            }
        }
    }
}

/// .NET writes row by row; after the first one its own rewind fails for ever (engine-experiments.md 7.2 to 7.5).
#[tokio::test]
async fn a_rewind_that_the_official_client_left_half_done_is_finished() {
    let recording = recording("hub/ext__durable__rewind_parent_child");
    let expected = recorded(&recording, "rewound");
    // In .NET's order: the parent's row of the child, then the child whole, then the parent's others.
    let generic = |id: &str, ordinal: &str, was: &str| {
        (
            "History",
            Entity::new(id, format!("000000000000000{ordinal}"))
                .with("EventType", "GenericEvent")
                .with("Reason", format!("Rewound: {was}")),
        )
    };
    let pending = |id: &str| ("Instances", Entity::new(id, "").with("RuntimeStatus", "Pending"));
    let created = Entity::new("rewind-3", "0000000000000006").with("Reason", "Rewound: SubOrchestrationInstanceCreated");
    let writes = [
        ("History", created),
        generic("rewind-3-child", "6", "TaskScheduled"),
        generic("rewind-3-child", "9", "TaskFailed"),
        generic("rewind-3-child", "A", "ExecutionCompleted"),
        pending("rewind-3-child"),
        generic("rewind-3", "9", "SubOrchestrationInstanceFailed"),
        generic("rewind-3", "A", "ExecutionCompleted"),
        pending("rewind-3"),
    ];
    for number in 0..=writes.len() {
        let world = World::of(&recording, "failed").await;
        for (table, row) in &writes[..number] {
            world.table(table).merge(row, Condition::Any).await.unwrap();
        }
        world.hub.rewind("rewind-3", Some("healed")).await.unwrap();
        assert_eq!(difference(&expected, &now(&world).await), None, "after {number} writes of .NET");
    }
}

/// The child was rewound alone and has finished: its parent discarded the result, and would wait for ever (engine-experiments.md 7.14, 7.15).
#[tokio::test]
async fn the_result_of_a_child_that_finished_meanwhile_is_sent_to_its_parent() {
    let failed = recording("hub/ext__durable__rewind_parent_child");
    for left_by_dotnet in [false, true] {
        let world = World::of(&failed, if left_by_dotnet { "rewound" } else { "failed" }).await;
        // The child as it is in the end.
        let completed = World::of(&failed, "completed").await;
        for row in all_rows(&completed, "History").await.into_iter().filter(|row| row.partition_key == "rewind-3-child") {
            world.table("History").replace(&row, Condition::Upsert).await.unwrap();
        }
        let row = Entity::new("rewind-3-child", "").with("RuntimeStatus", "Completed");
        world.table("Instances").merge(&row, Condition::Any).await.unwrap();

        let done = world.hub.rewind("rewind-3", None).await.unwrap();
        let rewritten = if left_by_dotnet { vec![] } else { vec!["rewind-3".to_owned()] };
        assert_eq!(done, Rewound::Done { rewritten, messages: 1 });
        let sent = messages(&world).await;
        let json: Json = serde_json::from_str(&sent[0].to_json()).unwrap();
        let event = &json["TaskMessage"]["Event"];
        assert_eq!(event["$type"], "DurableTask.Core.History.SubOrchestrationInstanceCompletedEvent");
        assert_eq!(
            (&event["TaskScheduledId"], &event["Result"]),
            (&Json::from(1), &Json::from("[\"Hello before!\",\"healed rewind-3\",\"Hello after!\"]"))
        );
        let execution = |id: &str| {
            failed.snapshot("failed").unwrap().rows("Instances").iter().find(|row| row["PartitionKey"].value == id).unwrap()["ExecutionId"]
                .value
                .clone()
        };
        assert_eq!(json["TaskMessage"]["OrchestrationInstance"]["InstanceId"], "rewind-3");
        assert_eq!(json["TaskMessage"]["OrchestrationInstance"]["ExecutionId"], execution("rewind-3"));
        assert_eq!(json["Sender"], serde_json::json!({"InstanceId": "rewind-3-child", "ExecutionId": execution("rewind-3-child")}));
    }
}

async fn all_rows(world: &World, suffix: &str) -> Vec<Entity> {
    world.table(suffix).query(&durable_taskhub::storage::Query::default()).await.unwrap().entities
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_is_written() {
    let parent_child = recording("hub/ext__durable__rewind_parent_child");
    let world = World::of(&parent_child, "failed").await;
    let (proxy, hub) = world.proxied().await;
    assert!(matches!(hub.rewind("missing", None).await, Err(RewindError::NotFound)));
    assert_eq!(refusal(hub.rewind("@counter@k", None).await.unwrap_err()), RewindRefusal::Entity);
    world.instance("pending", "Pending", 0).await;
    world.instance("running", "Running", 3).await;
    for (id, status) in [("pending", RuntimeStatus::Pending), ("running", RuntimeStatus::Running)] {
        assert_eq!(refusal(hub.rewind(id, None).await.unwrap_err()), RewindRefusal::NotFailed(status));
    }
    // The row says Failed, the history Completed (engine-experiments.md 5.8): history is the truth.
    world.instance("contradicted", "Completed", 4).await;
    world.table("Instances").merge(&Entity::new("contradicted", "").with("RuntimeStatus", "Failed"), Condition::Any).await.unwrap();
    assert_eq!(refusal(hub.rewind("contradicted", None).await.unwrap_err()), RewindRefusal::NotFailed(RuntimeStatus::Completed));

    // The child belongs to somebody else now.
    let started = Entity::new("rewind-3-child", "0000000000000001").with("ParentInstance", "null");
    world.table("History").merge(&started, Condition::Any).await.unwrap();
    assert_eq!(refusal(hub.rewind("rewind-3", None).await.unwrap_err()), RewindRefusal::ChildReplaced("rewind-3-child".to_owned()));
    // The child was purged (7.16).
    world.hub.purge("rewind-3-child", false).await.unwrap();
    assert_eq!(refusal(hub.check_rewind("rewind-3").await.unwrap_err()), RewindRefusal::ChildMissing("rewind-3-child".to_owned()));
    assert!(proxy.requests().iter().all(|request| !request.is_write()));
}

/// .NET takes the newest start of the ID, finds nothing to rewind, and says nothing (engine-experiments.md 7.17).
#[tokio::test]
async fn the_sentinel_names_the_execution_that_is_rewound() {
    let recording = recording("hub/ext__durable__rewind_flaky");
    let world = World::of(&recording, "failed").await;
    for ordinal in 12..20 {
        let row = Entity::new("rewind-1", format!("{ordinal:016X}"))
            .with("EventType", "OrchestratorStarted")
            .with("ExecutionId", "OLDER")
            .with("EventId", -1);
        world.table("History").insert(&row).await.unwrap();
    }
    assert_eq!(world.hub.check_rewind("rewind-1").await.unwrap(), ["rewind-1"]);
    world.hub.rewind("rewind-1", Some("healed")).await.unwrap();
    let mut found = now(&world).await;
    found.retain(|line| !line.contains("OLDER") && !(12..20).any(|ordinal| line.contains(&format!("|{ordinal:016X}]"))));
    let mut expected = recorded(&recording, "rewound");
    for line in found.iter_mut().chain(&mut expected) {
        if line.starts_with("table <Hub>History:") {
            *line = "rows".to_owned();
        }
    }
    assert_eq!(difference(&expected, &found), None);
}

/// More rows than a transaction takes: the end goes last.
#[tokio::test]
async fn the_row_that_ends_the_execution_is_in_the_last_transaction() {
    let world = World::new().await;
    let row = |ordinal: i32, event_type: &str| {
        Entity::new("wide", format!("{ordinal:016X}")).with("EventType", event_type).with("EventId", -1).with("ExecutionId", "E")
    };
    let history = world.table("History");
    world.instance("wide", "Failed", 0).await;
    history.insert(&Entity::new("wide", "sentinel").with("ExecutionId", "E")).await.unwrap();
    let started = row(0, "ExecutionStarted");
    history.insert(&started).await.unwrap();
    for task in 0..120 {
        history.insert(&row(1 + task, "TaskScheduled").with("EventId", task)).await.unwrap();
        history.insert(&row(200 + task, "TaskFailed").with("TaskScheduledId", task)).await.unwrap();
    }
    history.insert(&row(400, "ExecutionCompleted").with("OrchestrationStatus", "Failed")).await.unwrap();
    let (proxy, hub) = world.proxied().await;
    let mut transactions = 0;
    proxy.rule(move |request| {
        transactions += i32::from(request.path.ends_with("$batch"));
        if request.path.ends_with("$batch") && transactions == 3 { Fault::CutBefore } else { Fault::Pass }
    });
    hub.rewind("wide", None).await.unwrap_err();
    let ended = history.get("wide", &format!("{:016X}", 400), &[]).await.unwrap().unwrap();
    assert_eq!(ended.text("EventType"), Some("ExecutionCompleted"));
    assert_eq!(world.hub.get("wide").await.unwrap().unwrap().runtime_status, RuntimeStatus::Failed);
    proxy.rule(|_| Fault::Pass);
    proxy.clear();
    hub.rewind("wide", None).await.unwrap();
    let batches = proxy.requests().iter().filter(|request| request.path.ends_with("$batch")).count();
    assert_eq!(batches, 1, "241 rows, of which 200 were marked before");
    assert_eq!(world.hub.get("wide").await.unwrap().unwrap().runtime_status, RuntimeStatus::Pending);
    let left = all_rows(&world, "History").await;
    assert_eq!(left.iter().filter(|row| row.text("EventType") == Some("GenericEvent")).count(), 241);
}

/// The engine, or another rewind, writes between our look and our transaction.
#[tokio::test]
async fn a_history_that_is_changed_meanwhile_is_not_overwritten() {
    let recording = recording("hub/ext__durable__rewind_flaky");
    let world = World::of(&recording, "failed").await;
    let (proxy, hub) = world.proxied().await;
    proxy.rule(|request| match request.path.ends_with("$batch") {
        true => Fault::Delay(std::time::Duration::from_millis(1000)),
        false => Fault::Pass,
    });
    let change = async {
        while proxy.requests().len() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let row = Entity::new("rewind-1", "0000000000000009").with("Reason", "changed");
        world.table("History").merge(&row, Condition::Any).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(hub.rewind("rewind-1", None), change);
    assert!(matches!(outcome, Err(RewindError::Changed { .. })), "{outcome:?}");
    let rows = all_rows(&world, "History").await;
    assert!(rows.iter().all(|row| row.text("EventType") != Some("GenericEvent")));
    // Two reads, a transaction, the row, the message.
    proxy.rule(|_| Fault::Pass);
    proxy.clear();
    hub.rewind("rewind-1", None).await.unwrap();
    assert_eq!(crate::support::counted(&proxy.requests()), "2 GET Table, 1 PATCH Table, 1 POST Queue, 1 POST Table");
}

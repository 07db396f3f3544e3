//! Histories of the recordings and of instances with large values, leftovers and many rows.

use durable_taskhub::Time;
use durable_taskhub::event::{Event, EventKind};
use durable_taskhub::history::{HistoryError, HistoryOptions};
use durable_taskhub::storage::{Condition, Entity};

use crate::support::{World, counted, recording};

#[tokio::test]
async fn every_recorded_history_is_read_in_its_order() {
    for (path, label, ids) in [
        ("hub/ext__durable__rewind_parent_child", "completed", ["rewind-3", "rewind-3-child"]),
        ("hub/ext__durable__entity", "called", ["@counter@k1", "callcounter-1"]),
        ("hub-1x/dtfx1x__dtfx1x__rewind_parent_child", "completed", ["rewind-3", "rewind-3-child"]),
    ] {
        let recording = recording(path);
        let world = World::of(&recording, label).await;
        let snapshot = recording.snapshot(label).unwrap();
        for id in ids {
            let recorded: Vec<&str> = snapshot
                .rows("History")
                .iter()
                .filter(|row| row["PartitionKey"].value == id && row["RowKey"].value != "sentinel")
                .map(|row| row["EventType"].value.as_str().unwrap())
                .collect();
            let page = world.hub.history(id, &HistoryOptions::default(), None).await.unwrap();
            let found: Vec<&str> = page.events.iter().map(|event| event.event.kind.event_type()).collect();
            assert!(!found.is_empty());
            assert_eq!(found, recorded, "{path} {id}");
            assert!(page.next.is_none() && page.execution_id.is_some());
        }
    }
}

#[tokio::test]
async fn pages_cost_one_request_each_and_one_for_the_sentinel() {
    let world = World::new().await;
    world.instance("long/one", "Completed", 25).await;
    let (proxy, hub) = world.proxied().await;
    let options = HistoryOptions { page_size: 10, ..HistoryOptions::default() };
    let mut position = None;
    let mut ordinals = Vec::new();
    for expected in ["2 GET Table", "3 GET Table", "4 GET Table"] {
        let page = hub.history("long/one", &options, position.as_ref()).await.unwrap();
        ordinals.extend(page.events.iter().map(|event| event.ordinal));
        position = page.next;
        assert_eq!(counted(&proxy.requests()), expected);
    }
    assert_eq!((ordinals, position), ((0..25).collect(), None));
}

#[tokio::test]
async fn leftovers_of_a_longer_run_are_not_read() {
    let world = World::new().await;
    world.instance("i", "Completed", 5).await;
    let key = "i";
    for ordinal in 5..8 {
        let row = Event::new(Time::now(), EventKind::OrchestratorStarted).to_row(key, ordinal, "OLDER");
        world.table("History").insert(&row).await.unwrap();
    }
    let page = world.hub.history("i", &HistoryOptions::default(), None).await.unwrap();
    assert_eq!((page.events.len(), page.execution_id.as_deref()), (5, Some("E")));
    // At a page's edge too.
    let options = HistoryOptions { page_size: 5, ..HistoryOptions::default() };
    let first = world.hub.history("i", &options, None).await.unwrap();
    let second = world.hub.history("i", &options, first.next.as_ref()).await.unwrap();
    assert_eq!((second.events.len(), second.next), (0, None));

    // A new execution overwrites the history while it is read.
    let options = HistoryOptions { page_size: 2, ..HistoryOptions::default() };
    let first = world.hub.history("i", &options, None).await.unwrap();
    for ordinal in 0..5 {
        let row = Event::new(Time::now(), EventKind::OrchestratorStarted).to_row(key, ordinal, "NEW");
        world.table("History").replace(&row, Condition::Upsert).await.unwrap();
    }
    world.table("History").merge(&Entity::new(key, "sentinel").with("ExecutionId", "NEW"), Condition::Any).await.unwrap();
    let error = world.hub.history("i", &options, first.next.as_ref()).await.unwrap_err();
    assert!(matches!(error, HistoryError::Restarted), "{error}");
}

#[tokio::test]
async fn large_values_are_downloaded_on_demand_and_within_bounds() {
    let recording = recording("hub/ext__durable__purge");
    let world = World::of(&recording, "before").await;
    let page = world.hub.history("purge-2", &HistoryOptions::default(), None).await.unwrap();
    let large: Vec<_> = page.events.iter().filter(|event| event.large.contains_key("Result")).collect();
    assert_eq!(large.len(), 2, "of the activity and of the orchestration");
    let text = world.hub.fetch(&large[0].large["Result"], 1 << 20).await.unwrap();
    assert!(text.len() > 100_000);

    // Room for one of the two.
    let options = HistoryOptions { large_values: 150_000, ..HistoryOptions::default() };
    let page = world.hub.history("purge-2", &options, None).await.unwrap();
    assert_eq!(page.events.iter().filter(|event| !event.large.is_empty()).count(), 1);
    let options = HistoryOptions { large_values: 1 << 20, ..HistoryOptions::default() };
    let page = world.hub.history("purge-2", &options, None).await.unwrap();
    assert!(page.events.iter().all(|event| event.large.is_empty()));
    let results = page.events.iter().filter_map(|event| match &event.event.kind {
        EventKind::TaskCompleted { result, .. } | EventKind::ExecutionCompleted { result, .. } => result.clone(),
        _ => None,
    });
    assert!(results.clone().count() == 2 && results.into_iter().all(|result| result == text));

    let (proxy, hub) = world.proxied().await;
    let options = HistoryOptions { inputs: false, outputs: false, large_values: 1 << 20, ..HistoryOptions::default() };
    let page = hub.history("purge-2", &options, None).await.unwrap();
    assert!(page.events.iter().all(|event| event.large.is_empty()));
    let input = page.events.iter().find_map(|event| match &event.event.kind {
        EventKind::ExecutionStarted(started) => Some(started.input.clone()),
        _ => None,
    });
    assert_eq!(input, Some(None));
    assert_eq!(counted(&proxy.requests()), "2 GET Table");
}

#[tokio::test]
async fn an_instance_without_history_has_an_empty_one() {
    let world = World::new().await;
    let page = world.hub.history("missing", &HistoryOptions::default(), None).await.unwrap();
    assert_eq!((page.events.len(), page.execution_id, page.next), (0, None, None));
    let options = HistoryOptions { page_size: 1001, ..HistoryOptions::default() };
    assert!(matches!(world.hub.history("missing", &options, None).await, Err(HistoryError::PageSize(1001))));
}

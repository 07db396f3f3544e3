//! Purges: what goes, what stays, in how many requests.

use std::time::Duration;

use durable_bed::proxy::Fault;
use durable_bed::recording::difference;
use durable_taskhub::RuntimeStatus;
use durable_taskhub::list::Filter;
use durable_taskhub::purge::{PurgeError, PurgeFilterError, PurgeRequest};
use durable_taskhub::storage::{Condition, Entity};

use crate::support::{World, counted, recording};

#[tokio::test]
async fn a_purge_costs_what_its_formula_says() {
    let world = World::new().await;
    world.instance("no-container", "Completed", 4).await;
    let (proxy, hub) = world.proxied().await;
    hub.purge("no-container", false).await.unwrap();
    assert_eq!(counted(&proxy.requests()), "1 DELETE Table, 1 GET Blob, 2 GET Table, 1 POST Table");

    // 1 + (h / 1000 + 1) + 2 + b + ceil(h / 100) + 1; h counts the sentinel.
    for (rows, blobs) in [(4, 0), (99, 2), (100, 1), (1234, 3)] {
        let id = format!("formula-{rows}");
        world.instance(&id, "Completed", rows).await;
        world.blob("another/history-x.json.gz").await;
        for number in 0..blobs {
            world.blob(&format!("{id}/{}-{number}.json.gz", ["message", "history"][number % 2])).await;
        }
        proxy.clear();
        let purged = hub.purge(&id, false).await.unwrap();
        let h = usize::try_from(rows).unwrap() + 1;
        assert_eq!((purged.instances, purged.rows, purged.blobs), (1, h as u64, blobs as u64));
        assert_eq!(proxy.requests().len(), 1 + (h / 1000 + 1) + 2 + blobs + h.div_ceil(100) + 1, "{}", counted(&proxy.requests()));
    }
    assert_eq!(world.blobs().await, ["another/history-x.json.gz"]);
}

#[tokio::test]
async fn neighbours_with_the_same_prefix_keep_what_is_theirs() {
    {
        let path = "hub/dtfx__dtfx__x_purge_prefix";
        let recording = recording(path);
        let world = World::of(&recording, "before").await;
        let before = world.snapshot().await;
        // Ids whose blobs would lie below each other.
        world.blob("pp-2/message-x/message-1.json.gz").await;
        let purged = world.hub.purge("pp-2", false).await.unwrap();
        assert!(purged.blobs > 0);
        let mut expected = before.clone();
        let own = |key: &serde_json::Value| key == "pp-2";
        for rows in expected.tables.values_mut() {
            rows.retain(|row| !own(&row["PartitionKey"].value));
        }
        for blobs in expected.blobs.values_mut().flatten() {
            blobs.retain(|blob| !(blob.name.starts_with("pp-2/history-") || blob.name.starts_with("pp-2/message-")));
        }
        let mut after = world.snapshot().await;
        for blobs in after.blobs.values_mut().flatten() {
            assert!(blobs.len() < 2 || blobs.iter().any(|blob| blob.name == "pp-2/message-x/message-1.json.gz"));
            blobs.retain(|blob| blob.name != "pp-2/message-x/message-1.json.gz");
        }
        let hub = world.hub.name().as_str();
        assert_eq!(difference(&expected.normalised(hub), &after.normalised(hub)), None, "{path}");
        // .NET lost these (engine-experiments.md 8.1).
        for id in ["pp-20", "pp-2/x"] {
            let instance = world.hub.get(id).await.unwrap().unwrap();
            assert!(world.hub.fetch(&instance.output.unwrap(), 1 << 20).await.unwrap().len() > 1000, "{id}");
        }
        // The one with the slash: its messages' blobs are told by their content.
        let left = world.hub.purge("pp-2/x", false).await.unwrap();
        assert!(left.blobs > 0);
        assert_eq!(world.blobs().await.iter().filter(|name| name.contains("pp-2/x") || name.contains("pp-2^0x")).count(), 0);
    }
}

#[tokio::test]
async fn the_recorded_purges_leave_what_the_official_client_left() {
    let recording = recording("hub/ext__durable__purge");
    let world = World::of(&recording, "before").await;
    for id in ["purge-1", "purge-2"] {
        assert_eq!(world.hub.purge(id, false).await.unwrap().instances, 1);
    }
    let error = world.hub.purge("purge-missing", false).await.unwrap_err();
    assert!(matches!(error, PurgeError::NotFound { .. }), "{error}");
    let left = world.lines().await;
    let expected = recording.snapshot("after").unwrap().normalised(&recording.hub);
    let of_instances = |lines: &[String]| -> Vec<String> {
        let kept = |line: &&String| {
            line.starts_with("table <Hub>Instances") || line.starts_with("table <Hub>History") || line.contains("largemessages")
        };
        lines.iter().filter(kept).filter(|line| !line.contains("] Timestamp")).cloned().collect()
    };
    assert_eq!(difference(&of_instances(&expected), &of_instances(&left)), None);

    let recording = crate::support::recording("hub/ext__durable__purge_filter");
    let world = World::of(&recording, "before").await;
    let filter = Filter { statuses: vec![RuntimeStatus::Completed], ..Filter::default() };
    let page = world.hub.purge_page(&PurgeRequest::new(filter)).await.unwrap();
    assert_eq!((page.found, page.purged.instances), (vec!["pf-1".to_owned()], 1));
    let expected = recording.snapshot("completed ones purged").unwrap().normalised(&recording.hub);
    assert_eq!(difference(&of_instances(&expected), &of_instances(&world.lines().await)), None);
}

#[tokio::test]
async fn only_what_has_ended_by_its_history_is_purged() {
    let world = World::new().await;
    // The row says Terminated, the instance runs on (engine-experiments.md 5.10).
    world.instance("alive", "Running", 4).await;
    world.table("Instances").merge(&Entity::new("alive", "").with("RuntimeStatus", "Terminated"), Condition::Any).await.unwrap();
    world.instance("waiting", "Pending", 0).await;
    let before = world.lines().await;
    let (proxy, hub) = world.proxied().await;
    for (id, status) in [("alive", RuntimeStatus::Running), ("waiting", RuntimeStatus::Pending)] {
        let error = hub.purge(id, false).await.unwrap_err();
        assert!(matches!(&error, PurgeError::NotTerminal { status: found, .. } if *found == status), "{error}");
    }
    // Ended this moment, and the row is behind: the worker is about to write it.
    world.instance("ending", "Completed", 4).await;
    world.table("Instances").merge(&Entity::new("ending", "").with("RuntimeStatus", "Running"), Condition::Any).await.unwrap();
    let error = hub.purge("ending", false).await.unwrap_err();
    assert!(matches!(error, PurgeError::Settling { .. }), "{error}");
    assert!(matches!(hub.purge("@counter@k", false).await, Err(PurgeError::Entity { .. })));
    assert!(proxy.requests().iter().all(|request| !request.is_write()));
    world.table("Instances").merge(&Entity::new("ending", "").with("RuntimeStatus", "Completed"), Condition::Any).await.unwrap();
    hub.purge("ending", false).await.unwrap();
    assert_eq!(difference(&before, &world.lines().await), None);
}

#[tokio::test]
async fn children_go_first_and_none_goes_if_one_lives() {
    let recording = recording("hub/ext__durable__rewind_parent_child");
    let world = World::of(&recording, "completed").await;
    world.instance("unrelated", "Completed", 3).await;
    // A child that runs again.
    let child = Entity::new("rewind-3-child", "0000000000000016").with("EventType", "GenericEvent");
    world.table("History").merge(&child, Condition::Any).await.unwrap();
    let (proxy, hub) = world.proxied().await;
    let error = hub.purge("rewind-3", true).await.unwrap_err();
    assert!(matches!(&error, PurgeError::NotTerminal { instance_id, .. } if instance_id == "rewind-3-child"), "{error}");
    assert!(proxy.requests().iter().all(|request| !request.is_write()));
    let child = Entity::new("rewind-3-child", "0000000000000016").with("EventType", "ExecutionCompleted");
    world.table("History").merge(&child, Condition::Any).await.unwrap();

    proxy.clear();
    let purged = hub.purge("rewind-3", true).await.unwrap();
    assert_eq!(purged.instances, 2);
    let deleted: Vec<String> =
        proxy.requests().iter().filter(|request| request.method == "DELETE").map(|request| request.path.clone()).collect();
    assert!(deleted[0].contains("rewind-3-child") && !deleted[1].contains("child"), "{deleted:?}");
    assert_eq!(world.snapshot().await.rows("Instances").len(), 1);
    assert_eq!(world.snapshot().await.rows("History").len(), 4);
}

#[tokio::test]
async fn a_filter_without_terminal_statuses_is_refused() {
    let world = World::new().await;
    world.instance("running", "Running", 3).await;
    let (proxy, hub) = world.proxied().await;
    for statuses in [vec![], vec![RuntimeStatus::Running], vec![RuntimeStatus::Completed, RuntimeStatus::Pending]] {
        let filter = Filter { statuses, ..Filter::default() };
        assert!(matches!(hub.purge_page(&PurgeRequest::new(filter)).await, Err(PurgeFilterError::Statuses)));
    }
    let filter = Filter { statuses: vec![RuntimeStatus::Completed], id_prefix: "@".to_owned(), ..Filter::default() };
    assert!(matches!(hub.purge_page(&PurgeRequest::new(filter)).await, Err(PurgeFilterError::Entities)));
    assert_eq!(proxy.requests().len(), 0);
}

#[tokio::test]
async fn a_dry_run_only_looks() {
    let world = World::new().await;
    for number in 0..5 {
        world.instance(&format!("i-{number}"), ["Completed", "Running"][number % 2], 3).await;
    }
    let filter = Filter { statuses: vec![RuntimeStatus::Completed, RuntimeStatus::Failed], ..Filter::default() };
    let (proxy, hub) = world.proxied().await;
    let page = hub.purge_page(&PurgeRequest { dry_run: true, ..PurgeRequest::new(filter) }).await.unwrap();
    assert_eq!(page.found, ["i-0", "i-2", "i-4"]);
    assert_eq!((page.purged.instances, counted(&proxy.requests())), (0, "1 GET Table".to_owned()));
}

#[tokio::test]
async fn a_purge_cut_off_after_each_of_its_writes_is_finished_by_the_next() {
    let world = World::new().await;
    world.instance("kept", "Completed", 150).await;
    world.blob("kept/history-1.json.gz").await;
    let before = world.lines().await;
    for writes in 0.. {
        world.instance("gone", "Failed", 250).await;
        for name in ["gone/history-1.json.gz", "gone/message-1.json.gz"] {
            world.blob(name).await;
        }
        let (proxy, hub) = world.proxied().await;
        let mut left = writes;
        proxy.rule(move |request| {
            if !request.is_write() {
                return Fault::Pass;
            }
            left -= 1;
            if left < 0 { Fault::CutBefore } else { Fault::Pass }
        });
        let first = hub.purge("gone", false).await;
        if first.is_ok() {
            // Two blobs, three transactions, the row.
            assert_eq!(writes, 6);
            break;
        }
        world.hub.purge("gone", false).await.unwrap();
        assert_eq!(difference(&before, &world.lines().await), None, "after {writes} writes");
    }
}

#[tokio::test]
async fn a_start_that_nobody_took_up_is_cancelled_by_its_row_alone() {
    let world = World::new().await;
    for id in ["scheduled", "terminated"] {
        let row = Entity::new(id, "").with("RuntimeStatus", "Pending").with("ExecutionId", "E").with("Name", "Echo");
        world.table("Instances").insert(&row).await.unwrap();
        world.blob(&format!("{id}/message-1-ExecutionStarted.json.gz")).await;
    }
    world.instance("started", "Pending", 3).await;
    let (proxy, hub) = world.proxied().await;
    hub.cancel_start("scheduled").await.unwrap();
    assert_eq!(counted(&proxy.requests()), "1 DELETE Table, 3 GET Table");
    assert!(world.hub.get("scheduled").await.unwrap().is_none());
    assert!(matches!(hub.cancel_start("started").await, Err(PurgeError::NotTerminal { .. })));
    assert!(matches!(hub.cancel_start("scheduled").await, Err(PurgeError::NotFound { .. })));

    // Terminated before it started: its start message waits in the queue all the same (engine-experiments.md 5.1).
    world.table("Instances").merge(&Entity::new("terminated", "").with("RuntimeStatus", "Terminated"), Condition::Any).await.unwrap();
    world.blob("terminated/history--Output-0A1B2C3D-Output.json.gz").await;
    let purged = hub.purge("terminated", false).await.unwrap();
    assert_eq!((purged.blobs, purged.blobs_left), (1, 1));
    let kept = ["scheduled", "terminated"].map(|id| format!("{id}/message-1-ExecutionStarted.json.gz"));
    assert_eq!(world.blobs().await, kept);
}

/// A worker takes the start up between our look and our deletion of the row: its history is there before its row.
#[tokio::test]
async fn a_start_that_is_taken_up_meanwhile_is_told() {
    let world = World::new().await;
    let row = Entity::new("taken", "").with("RuntimeStatus", "Pending").with("ExecutionId", "E").with("Name", "Echo");
    world.table("Instances").insert(&row).await.unwrap();
    let (proxy, hub) = world.proxied().await;
    proxy.rule(|request| if request.method == "DELETE" { Fault::Delay(Duration::from_millis(1000)) } else { Fault::Pass });
    let begin = async {
        while proxy.requests().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Of a first checkpoint in two transactions, whose sentinel is still to come.
        let first = Entity::new("taken", "0000000000000000").with("EventType", "OrchestratorStarted").with("ExecutionId", "E");
        world.table("History").insert(&first).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(hub.cancel_start("taken"), begin);
    assert!(matches!(outcome, Err(PurgeError::NotTerminal { status: RuntimeStatus::Running, .. })), "{outcome:?}");

    // What an earlier run of the ID left does not count.
    let row = Entity::new("again", "").with("RuntimeStatus", "Pending").with("ExecutionId", "F").with("Name", "Echo");
    world.instance("again", "Completed", 4).await;
    world.table("Instances").replace(&row, Condition::Any).await.unwrap();
    world.hub.cancel_start("again").await.unwrap();
    assert!(world.hub.get("again").await.unwrap().is_none());
}

/// Somebody starts the ID anew between our look and our deletion of the row.
#[tokio::test]
async fn an_instance_that_is_changed_meanwhile_is_kept() {
    let world = World::new().await;
    world.instance("again", "Completed", 4).await;
    let (proxy, hub) = world.proxied().await;
    proxy.rule(|request| match request.path.ends_with("$batch") {
        true => Fault::Delay(Duration::from_millis(1000)),
        false => Fault::Pass,
    });
    let change = async {
        while !proxy.requests().iter().any(|request| request.path.contains("largemessages")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let row = Entity::new("again", "").with("RuntimeStatus", "Pending").with("ExecutionId", "F").with("Name", "Echo");
        world.table("Instances").replace(&row, Condition::Any).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(hub.purge("again", false), change);
    assert!(matches!(outcome, Err(PurgeError::Changed { .. })), "{outcome:?}");
    assert_eq!(world.hub.get("again").await.unwrap().unwrap().execution_id.as_deref(), Some("F"));
}

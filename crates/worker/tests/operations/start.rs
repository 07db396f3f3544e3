//! Starts: row first, once, at their time, and never over a run that is not over.

use std::time::Duration;

use durable_bed::proxy::{Fault, Service};
use durable_taskhub::control::ControlError;
use durable_taskhub::names::InstanceId;
use durable_taskhub::purge::PurgeError;
use durable_taskhub::restart::{RestartAs, RestartError};
use durable_taskhub::start::{Overwrite, StartError, StartRequest};
use durable_taskhub::{RuntimeStatus, Time};

use crate::served::{Served, request};
use crate::support::PATIENCE;

/// JSON is text: numbers, order and blanks arrive as they were given. Two requests, and one to look.
#[tokio::test]
async fn an_input_arrives_byte_for_byte() {
    let served = Served::new("bytes").await;
    let (worker, through) = (served.hub.worker(), served.proxied().await);
    let input = "{ \"z\" : 1.10, \"a\":[1 ,2.0e3 ],\"big\":12345678901234567890123, \"date\":\"2026-01-01T00:00:00+01:00\" , \"é\":\"\\u00e9/\\/\" }";
    through.client.start(request("echo-1", "Echo", Some(input))).await.unwrap();
    assert_eq!(through.requests(), 2);
    served.hub.wait_for("echo-1", &["Completed"], PATIENCE).await;
    let row = through.client.get("echo-1").await.unwrap().unwrap();
    assert_eq!(through.requests(), 1);
    for payload in [row.input.unwrap(), row.output.unwrap()] {
        assert_eq!(served.client.fetch(&payload, 1 << 20).await.unwrap(), input);
    }
    worker.stop().await;
}

/// 4.2, 4.3: the row without its message harms nothing, and the same start again completes it.
#[tokio::test]
async fn a_start_cut_between_row_and_message_is_finished_by_the_same_call() {
    let served = Served::new("halfway").await;
    let (worker, through) = (served.hub.worker(), served.proxied().await);
    let start = request("echo-1", "Echo", Some("1"));
    through.proxy.rule(|request| if request.service == Service::Queue { Fault::CutBefore } else { Fault::Pass });
    through.client.start(start.clone()).await.unwrap_err();
    assert_eq!(served.get("echo-1").await.runtime_status, RuntimeStatus::Pending);
    assert!(matches!(served.client.terminate("echo-1", None).await, Err(ControlError::NotStarted)));
    // Sent, and the answer lost: then it is sent twice, and runs once (4.4).
    through.proxy.rule(|request| if request.service == Service::Queue { Fault::CutAfter } else { Fault::Pass });
    through.client.start(start.clone()).await.unwrap_err();
    served.client.start(start.clone()).await.unwrap();
    served.hub.wait_for("echo-1", &["Completed"], PATIENCE).await;
    served.client.start(start).await.unwrap();
    served.hub.wait_until_empty().await;
    assert_eq!(served.history("echo-1").await.iter().filter(|kind| *kind == "ExecutionStarted").count(), 1);
    worker.stop().await;
}

/// 4.6, 4.7: of many clients one wins, and only that one is told so.
#[tokio::test]
async fn of_two_starts_of_one_id_one_succeeds() {
    let served = Served::new("race").await;
    let worker = served.hub.worker();
    for round in 0..10 {
        let id = format!("echo-{round}");
        let start = async |input| served.client.start(request(&id, "Echo", Some(input))).await;
        let winner = match tokio::join!(start("1"), start("2")) {
            (Ok(()), Err(StartError::AlreadyExists)) => "1",
            (Err(StartError::AlreadyExists), Ok(())) => "2",
            other => panic!("{other:?}"),
        };
        assert_eq!(served.hub.wait_for(&id, &["Completed"], PATIENCE).await.text("Output"), Some(winner));
    }
    served.hub.wait_until_empty().await;
    worker.stop().await;
}

/// 4.8, 4.9: a run that is over is replaced with the next generation, one that is not over never.
#[tokio::test]
async fn only_a_finished_run_is_overwritten() {
    let served = Served::new("overwrite").await;
    let worker = served.hub.worker();
    served.start("over", "HelloSequence", None).await;
    served.hub.wait_for("over", &["Completed"], PATIENCE).await;
    assert_eq!(served.history("over").await.len(), 16);
    let never = request("over", "Echo", Some("2"));
    assert!(matches!(served.client.start(never.clone()).await, Err(StartError::AlreadyExists)));
    served.client.start(StartRequest { overwrite: Overwrite::Finished, ..never }).await.unwrap();
    served.hub.wait_for("over", &["Completed"], PATIENCE).await;
    let row = served.get("over").await;
    assert_eq!((row.generation, served.output("over").await.as_str()), (1, "2"));
    assert_eq!(served.history("over").await, ["OrchestratorStarted", "ExecutionStarted", "ExecutionCompleted", "OrchestratorCompleted"]);

    served.start("alive", "Approval", None).await;
    let before = served.hub.wait_for("alive", &["Running"], PATIENCE).await;
    let again = StartRequest { overwrite: Overwrite::Finished, ..request("alive", "Echo", None) };
    assert!(matches!(served.client.start(again).await, Err(StartError::AlreadyExists)));
    assert!(matches!(served.client.restart("alive", RestartAs::Same).await, Err(RestartError::Start(StartError::AlreadyExists))));
    assert_eq!(served.hub.instance("alive").await.unwrap().columns, before.columns);
    served.hub.wait_until_empty().await;
    worker.stop().await;
}

/// The input goes along as text, to the same ID and to a new one. Three requests; five for the same ID.
#[tokio::test]
async fn a_restart_runs_with_the_same_input() {
    let served = Served::new("restart").await;
    let (worker, through) = (served.hub.worker(), served.proxied().await);
    let input = "[1.10, {\"b\" :0,\"a\":0}]";
    served.start("first", "Echo", Some(input)).await;
    served.hub.wait_for("first", &["Completed"], PATIENCE).await;
    let new = through.client.restart("first", RestartAs::New(InstanceId::new("second").unwrap())).await.unwrap();
    assert_eq!((through.requests(), new.as_str()), (3, "second"));
    through.client.restart("first", RestartAs::Same).await.unwrap();
    assert_eq!(through.requests(), 5);
    for (id, generation) in [("first", 1), ("second", 0)] {
        served.hub.wait_for(id, &["Completed"], PATIENCE).await;
        assert_eq!((served.output(id).await.as_str(), served.get(id).await.generation), (input, generation));
    }
    assert!(matches!(through.client.restart("missing", RestartAs::Same).await, Err(RestartError::NotFound)));
    worker.stop().await;
}

/// 4.11b, 4.13, 5.1, 5.4: a scheduled start runs not before its time; until then a terminate or event is refused, and only
/// the removal of its row cancels it.
#[tokio::test]
async fn a_scheduled_start_runs_at_its_time_or_is_cancelled() {
    let served = Served::new("scheduled").await;
    let worker = served.hub.worker();
    let due = Time::now().saturating_add(Duration::from_secs(4));
    for id in ["due", "cancelled"] {
        served.client.start(StartRequest { scheduled_start_time: Some(due), ..request(id, "Echo", Some("1")) }).await.unwrap();
    }
    assert!(matches!(served.client.terminate("due", None).await, Err(ControlError::NotStarted)));
    assert!(matches!(served.client.raise_event("due", "Approval", None).await, Err(ControlError::NotStarted)));
    served.client.cancel_start("cancelled").await.unwrap();
    while Time::now().saturating_add(Duration::from_millis(500)) < due {
        assert_eq!(served.get("due").await.runtime_status, RuntimeStatus::Pending);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    served.hub.wait_for("due", &["Completed"], PATIENCE).await;
    let row = served.get("due").await;
    assert!(row.completed_time.unwrap() >= due && row.scheduled_start_time == Some(due), "{row:?}");
    assert!(matches!(served.client.cancel_start("due").await, Err(PurgeError::NotTerminal { .. })));
    // Longer than its first delivery, which puts it back.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(served.client.get("cancelled").await.unwrap().is_none());
    assert_eq!(served.history("cancelled").await, Vec::<String>::new());
    worker.stop().await;
}

/// 4.14: after a cancelled start the ID is free, and the old message starts nothing.
#[tokio::test]
async fn only_the_new_start_runs_after_a_cancelled_one() {
    let served = Served::new("anew").await;
    served.start("echo-1", "Echo", Some("1")).await;
    served.client.cancel_start("echo-1").await.unwrap();
    served.start("echo-1", "Echo", Some("2")).await;
    let worker = served.hub.worker();
    assert_eq!(served.hub.wait_for("echo-1", &["Completed"], PATIENCE).await.text("Output"), Some("2"));
    served.hub.wait_until_empty().await;
    assert_eq!(served.history("echo-1").await.len(), 4);
    worker.stop().await;
}

/// 5.22: IDs that differ only in case are two instances.
#[tokio::test]
async fn ids_keep_their_case() {
    let served = Served::new("case").await;
    let worker = served.hub.worker();
    for id in ["Case", "cASE"] {
        served.start(id, "Approval", None).await;
        served.hub.wait_for(id, &["Running"], PATIENCE).await;
    }
    for (id, payload) in [("Case", "1"), ("cASE", "2")] {
        served.client.raise_event(id, "Approval", Some(payload)).await.unwrap();
    }
    for (id, payload) in [("Case", "1"), ("cASE", "2")] {
        assert_eq!(served.hub.wait_for(id, &["Completed"], PATIENCE).await.text("Output"), Some(payload));
    }
    worker.stop().await;
}

//! Events, suspend, resume, terminate: delivered where the instance lives, refused where the engine would drop or return them.

use std::time::{Duration, Instant};

use durable_bed::proxy::{Fault, Service};
use durable_taskhub::control::ControlError;
use durable_taskhub::event::EventKind;
use durable_taskhub::start::StartRequest;
use durable_taskhub::storage::Condition;
use durable_taskhub::terminate::Terminating;
use durable_taskhub::{RuntimeStatus, Time};

use crate::served::{Proxied, Served, request};
use crate::support::PATIENCE;

async fn every_control(through: &Proxied, id: &str) -> [ControlError; 4] {
    let refused = [
        through.client.raise_event(id, "Approval", Some("1")).await.unwrap_err(),
        through.client.suspend(id, None).await.unwrap_err(),
        through.client.resume(id, None).await.unwrap_err(),
        through.client.terminate(id, None).await.unwrap_err(),
    ];
    assert!(through.has_only_read());
    refused
}

/// Rules 2 and 6 (3.5, 4.3, 5.3 to 5.7d, 5.16): nothing is put into a queue for an instance that is missing, has not
/// started, or has ended.
#[tokio::test]
async fn controls_are_refused_before_the_start_after_the_end_and_without_instance() {
    let served = Served::new("refused").await;
    let through = served.proxied().await;
    assert!(every_control(&through, "missing").await.iter().all(|error| matches!(error, ControlError::NotFound)));
    assert_eq!(served.waiting_messages().await, 0);

    served.start("approval-1", "Approval", None).await;
    assert!(every_control(&through, "approval-1").await.iter().all(|error| matches!(error, ControlError::NotStarted)));
    assert_eq!(served.waiting_messages().await, 1, "the start alone");
    assert!(matches!(through.client.raise_event("approval-1", "", None).await, Err(ControlError::NoEventName)));
    assert!(matches!(through.client.raise_event("approval-1", "Approval", Some("{")).await, Err(ControlError::InvalidPayload(_))));
    assert_eq!(through.requests(), 0);

    let worker = served.hub.worker();
    served.hub.wait_for("approval-1", &["Running"], PATIENCE).await;
    served.client.terminate("approval-1", Some("done")).await.unwrap();
    served.hub.wait_for("approval-1", &["Terminated"], PATIENCE).await;
    let over = |error: &ControlError| matches!(error, ControlError::Finished(RuntimeStatus::Terminated));
    assert!(every_control(&through, "approval-1").await.iter().all(over));
    served.hub.wait_until_empty().await;

    // What others send is deleted, and changes nothing (5.16).
    let before = served.hub.instance("approval-1").await.unwrap();
    served.send_unchecked("approval-1", EventKind::ExecutionSuspended { reason: Some("late".into()) }).await;
    served.send_unchecked("approval-1", EventKind::ExecutionTerminated { input: Some("late".into()) }).await;
    served.hub.wait_until_empty().await;
    assert_eq!(served.hub.instance("approval-1").await.unwrap().columns, before.columns);
    worker.stop().await;
}

/// A payload arrives as it was given, also one over 45 KiB (6.6). Two requests; three if it is large.
#[tokio::test]
async fn events_are_delivered_byte_for_byte() {
    let served = Served::new("events").await;
    served.hub.storage.container(&served.hub.name.large_messages_container()).create_if_missing().await.unwrap();
    let large = format!("[1.10, \"{}\" ]", "é".repeat(60_000));
    let worker = served.hub.worker();
    let through = served.proxied().await;
    for (id, payload, requests) in [("small", "{ \"b\": 1.10, \"a\" :[1 ,2]}", 2), ("large", &large, 3)] {
        served.start(id, "Approval", None).await;
        served.hub.wait_for(id, &["Running"], PATIENCE).await;
        through.client.raise_event(id, "Approval", Some(payload)).await.unwrap();
        assert_eq!(through.requests(), requests, "{id}");
        served.hub.wait_for(id, &["Completed"], PATIENCE).await;
        assert!(served.output(id).await == payload, "{id}");
    }
    worker.stop().await;
}

/// What comes while an instance is suspended waits for its resume; a reason that reads as a URI gets a blank (rule 10, 5.18).
#[tokio::test]
async fn a_suspended_instance_gets_its_events_after_its_resume() {
    let served = Served::new("suspended").await;
    let (worker, through) = (served.hub.worker(), served.proxied().await);
    served.start("approval-1", "Approval", None).await;
    served.hub.wait_for("approval-1", &["Running"], PATIENCE).await;
    assert!(matches!(through.client.resume("approval-1", None).await, Err(ControlError::NotSuspended)));
    assert!(through.has_only_read());

    through.client.suspend("approval-1", Some("https://example.com/ticket/1")).await.unwrap();
    assert_eq!(through.requests(), 2);
    let row = served.hub.wait_for("approval-1", &["Suspended"], PATIENCE).await;
    assert_eq!(row.text("Output"), Some("https://example.com/ticket/1 "));
    assert!(matches!(through.client.suspend("approval-1", None).await, Err(ControlError::AlreadySuspended)));
    assert!(through.has_only_read());

    served.client.raise_event("approval-1", "Approval", Some("7")).await.unwrap();
    served.hub.wait_until_empty().await;
    assert_eq!(served.get("approval-1").await.runtime_status, RuntimeStatus::Suspended);
    through.client.resume("approval-1", Some("go on")).await.unwrap();
    assert_eq!(through.requests(), 2);
    assert_eq!(served.hub.wait_for("approval-1", &["Completed"], PATIENCE).await.text("Output"), Some("7"));
    worker.stop().await;
}

/// Three requests, the last of which looks back; the end shows in the history (rule 7).
#[tokio::test]
async fn a_terminate_ends_a_run_and_its_history() {
    let served = Served::new("terminated").await;
    let (worker, through) = (served.hub.worker(), served.proxied().await);
    served.start("approval-1", "Approval", None).await;
    served.hub.wait_for("approval-1", &["Running"], PATIENCE).await;
    let sent = through.client.terminate("approval-1", Some("Failed:x")).await.unwrap();
    assert!(matches!(sent, Terminating::Sent(_)));
    assert_eq!(through.requests(), 3);
    assert_eq!(served.hub.wait_for("approval-1", &["Terminated"], PATIENCE).await.text("Output"), Some("Failed:x "));
    let history = served.history("approval-1").await;
    assert!(
        history.iter().any(|kind| kind == "ExecutionTerminated") && history.iter().any(|kind| kind == "ExecutionCompleted"),
        "{history:?}"
    );
    worker.stop().await;
}

/// Rule 6 (5.17): the instance is purged between the terminate and the look back. Nobody took the message: it is taken
/// back. Somebody did: the caller learns it.
#[tokio::test]
async fn a_terminate_of_an_instance_that_goes_meanwhile_is_taken_back() {
    let served = Served::new("purged").await;
    let worker = served.hub.worker();
    for id in ["untaken", "taken"] {
        served.start(id, "Approval", None).await;
        served.hub.wait_for(id, &["Running"], PATIENCE).await;
    }
    worker.stop().await;
    for id in ["untaken", "taken"] {
        let through = served.proxied().await;
        let mut has_sent = false;
        through.proxy.rule(move |request| {
            has_sent |= request.service == Service::Queue;
            let is_look_back = has_sent && request.service == Service::Table;
            if is_look_back { Fault::Delay(Duration::from_millis(1500)) } else { Fault::Pass }
        });
        let purge = async {
            let begin = Instant::now();
            while !through.proxy.requests().iter().any(|request| request.service == Service::Queue) {
                assert!(begin.elapsed() < PATIENCE);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            served.hub.storage.table(&served.hub.name.instances_table()).delete(id, "", Condition::Any).await.unwrap();
            if id == "taken" {
                assert_eq!(served.hub.queue_of(id).receive(1, Duration::from_secs(60)).await.unwrap().len(), 1);
            }
        };
        let (outcome, ()) = tokio::join!(through.client.terminate(id, None), purge);
        match (id, outcome.unwrap()) {
            ("untaken", Terminating::Withdrawn) => assert_eq!(served.waiting_messages().await, 0),
            ("taken", Terminating::Stranded(sent)) => assert!(!sent.withdraw().await.unwrap()),
            (id, other) => panic!("{id}: {other:?}"),
        }
    }
    assert_eq!(served.waiting_messages().await, 1, "the stranded one");
}

/// Rule 5: deleted by its receipt = withdrawn; refused = taken.
#[tokio::test]
async fn a_message_is_withdrawn_until_a_worker_takes_it() {
    let served = Served::new("withdrawn").await;
    served.start("approval-1", "Approval", None).await;
    let worker = served.hub.worker();
    served.hub.wait_for("approval-1", &["Running"], PATIENCE).await;
    served.hub.wait_until_empty().await;
    worker.stop().await;
    let raise = async |payload| served.client.raise_event("approval-1", "Approval", Some(payload)).await.unwrap();
    let withdrawn = raise("1").await;
    assert!(withdrawn.withdraw().await.unwrap());
    assert_eq!(served.waiting_messages().await, 0);
    let taken = raise("2").await;
    let worker = served.hub.worker();
    assert_eq!(served.hub.wait_for("approval-1", &["Completed"], PATIENCE).await.text("Output"), Some("2"));
    served.hub.wait_until_empty().await;
    assert!(!taken.withdraw().await.unwrap() && !withdrawn.withdraw().await.unwrap());
    worker.stop().await;
}

/// Rule 5, over a restart: what was kept of the receipt is enough. The backlog counts what a worker has taken, too.
#[tokio::test]
async fn a_message_is_withdrawn_by_what_was_kept_of_it() {
    let served = Served::new("kept").await;
    served.start("approval-1", "Approval", None).await;
    let worker = served.hub.worker();
    served.hub.wait_for("approval-1", &["Running"], PATIENCE).await;
    served.hub.wait_until_empty().await;
    worker.stop().await;
    let sent = served.client.raise_event("approval-1", "Approval", Some("1")).await.unwrap();
    assert_eq!(sent.queue_name(), served.hub.queue_of("approval-1").name());
    let (id, receipt) = sent.receipt();
    let (id, receipt) = (id.to_owned(), receipt.to_owned());
    drop(sent);

    let through = served.proxied().await;
    assert_eq!((through.client.control_backlog("approval-1").await.unwrap(), through.requests()), (1, 1));
    assert!(through.client.withdraw("approval-1", &id, &receipt).await.unwrap());
    assert_eq!(through.requests(), 1);
    assert_eq!(through.client.control_backlog("approval-1").await.unwrap(), 0);
    assert!(!through.client.withdraw("approval-1", &id, &receipt).await.unwrap());
    let error = through.client.withdraw("approval-1", "../secret", &receipt).await.unwrap_err();
    assert_eq!(error.kind(), durable_taskhub::storage::StorageErrorKind::InvalidInput);

    let sent = served.client.raise_event("approval-1", "Approval", Some("2")).await.unwrap();
    assert_eq!(served.hub.queue_of("approval-1").receive(1, Duration::from_secs(1)).await.unwrap().len(), 1);
    assert_eq!(served.client.control_backlog("approval-1").await.unwrap(), 1, "hidden, and not done");
    let (id, receipt) = sent.receipt();
    assert!(!served.client.withdraw("approval-1", id, receipt).await.unwrap(), "taken");
    let worker = served.hub.worker();
    assert_eq!(served.hub.wait_for("approval-1", &["Completed"], PATIENCE).await.text("Output"), Some("2"));
    worker.stop().await;
}

/// 5.4, 5.7: together with the start it arrives; after a worker has put the start back until its time, it is dropped.
#[tokio::test]
async fn an_event_before_the_start_may_arrive() {
    let served = Served::new("early").await;
    let through = served.proxied().await;
    assert!(matches!(through.client.raise_event_unstarted("missing", "Approval", None).await, Err(ControlError::NotFound)));
    assert!(through.has_only_read());
    served.start("together", "Approval", None).await;
    through.client.raise_event_unstarted("together", "Approval", Some("1")).await.unwrap();
    assert_eq!(through.requests(), 2);
    assert_eq!(served.waiting_messages().await, 2);
    let worker = served.hub.worker();
    assert_eq!(served.hub.wait_for("together", &["Completed"], PATIENCE).await.text("Output"), Some("1"));
    assert!(matches!(served.client.raise_event_unstarted("together", "Approval", None).await, Err(ControlError::Finished(_))));

    let due = Some(Time::now().saturating_add(Duration::from_secs(3)));
    let start = StartRequest { scheduled_start_time: due, ..request("scheduled", "Approval", None) };
    served.client.start(start).await.unwrap();
    served.client.raise_event_unstarted("scheduled", "Approval", Some("1")).await.unwrap();
    served.hub.wait_for("scheduled", &["Running"], PATIENCE).await;
    served.hub.wait_until_empty().await;
    assert!(!served.history("scheduled").await.iter().any(|kind| kind == "EventRaised"));
    worker.stop().await;
}

/// 5.21: what is sent one after another is delivered in that order, though within one second and one batch.
#[tokio::test]
async fn events_keep_their_order() {
    let served = Served::new("order").await;
    served.start("counter-1", "Counter", Some("0")).await;
    let worker = served.hub.worker();
    served.hub.wait_for("counter-1", &["Running"], PATIENCE).await;
    worker.stop().await;
    for number in 1..=5 {
        served.client.raise_event("counter-1", "add", Some(&number.to_string())).await.unwrap();
    }
    // Before a `stop` that would win, had it overtaken one of them.
    served.client.raise_event("counter-1", "stop", None).await.unwrap();
    let worker = served.hub.worker();
    assert_eq!(served.hub.wait_for("counter-1", &["Completed"], PATIENCE).await.text("Output"), Some("15"));
    worker.stop().await;
}

//! Each write of a run fails once, in the order of task-hub.md 5.6: the run comes to the same end.
//!
//! A worker that is killed leaves the same state in storage as one whose write is refused; only its messages come back
//! later (five minutes, against two seconds), so refusals try all places in one test.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use durable_bed::azurite::Azurite;
use durable_bed::proxy::{Fault, Recorded, Service};
use durable_taskhub::TaskHub;
use durable_taskhub::storage::{Account, Options, Storage};

use crate::support::TestHub;

const PATIENCE: Duration = Duration::from_secs(60);

/// The text in which a request names its instance: path and body, a queue message's text decoded.
fn named_in(request: &Recorded) -> String {
    let body = String::from_utf8_lossy(&request.body).into_owned();
    let message = body.split_once("<MessageText>").and_then(|(_, rest)| rest.split_once("</MessageText>"));
    let decoded = message.and_then(|(text, _)| STANDARD.decode(text).ok()).unwrap_or_default();
    format!("{} {body} {}", request.path, String::from_utf8_lossy(&decoded))
}

/// A write of the run itself: no lease, no receipt or removal of a message, no creation of a container.
fn is_of_a_run(request: &Recorded) -> bool {
    let on_a_received_message = request.service == Service::Queue && request.method != "POST";
    request.is_write() && !on_a_received_message && !request.path.contains("Partitions")
}

/// No client writes a child's row: it must become whole although any of its writes failed. If the child ended before its
/// start came back, that is when the start does.
async fn is_whole(hub: &TestHub, child: &str) {
    let begin = Instant::now();
    loop {
        let row = hub.instance(child).await.unwrap();
        let columns = ["Name", "Input", "Output", "CreatedTime", "CompletedTime", "ExecutionId", "TaskHubName", "Tags", "CustomStatus"];
        let Some(missing) = columns.into_iter().find(|column| !row.columns.contains_key(*column)) else { return };
        assert!(begin.elapsed() < PATIENCE, "{child} lacks {missing}: {row:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Runs the orchestration `function` once undisturbed, then once for each of its writes with that write refused.
async fn every_write_fails_once(function: &str, input: Option<&str>, expected: &str, children: &[&str]) {
    let mut hub = TestHub::new("interrupted").await;
    let proxy = Azurite::of_process().unwrap().proxy().unwrap();
    hub.connection_string = proxy.connection_string();
    // By the letters of the instance: how many writes there were, and which one fails.
    let plan: Arc<Mutex<BTreeMap<String, (usize, usize)>>> = Arc::default();
    let rule = plan.clone();
    proxy.rule(move |request| {
        if !is_of_a_run(request) {
            return Fault::Pass;
        }
        let text = named_in(request);
        let mut plan = rule.lock().unwrap();
        let Some((writes, failing)) = plan.iter_mut().find(|(id, _)| text.contains(id.as_str())).map(|(_, state)| state) else {
            return Fault::Pass;
        };
        *writes += 1;
        // Not an error that is tried again at once.
        if *writes == *failing { Fault::Answer(400, "InvalidInput") } else { Fault::Pass }
    });
    // The worker's URLs lead through the proxy: only a client of that address takes them for large values.
    let account = Account::from_connection_string(&hub.connection_string).unwrap();
    let client = TaskHub::connect(Storage::new(account, Options::default()).unwrap(), hub.name.clone(), None).await.unwrap();
    let begin = async |id: &str, failing: usize| {
        plan.lock().unwrap().insert(id.to_owned(), (0, failing));
        std::fs::write(hub.folder.join(id), "").unwrap();
        hub.start(id, function, input).await;
    };
    let end = async |id: &str| {
        hub.wait_for(id, &["Completed"], PATIENCE).await;
        let output = client.get(id).await.unwrap().unwrap().output.unwrap();
        let output = client.fetch(&output, 1 << 20).await.unwrap();
        assert!(output == expected.replace("<id>", id), "{id}: {} bytes", output.len());
        for child in children {
            let child = format!("{id}{child}");
            hub.wait_for(&child, &["Completed"], PATIENCE).await;
            is_whole(&hub, &child).await;
        }
    };
    // Else the first large value is written in vain once, which no other run repeats.
    hub.storage.container(&hub.name.large_messages_container()).create_if_missing().await.unwrap();
    let worker = hub.worker();
    begin("run-00", 0).await;
    end("run-00").await;
    let writes = plan.lock().unwrap()["run-00"].0;
    assert!(writes > 10, "{writes}");
    let ids: Vec<String> = (1..=writes).map(|failing| format!("run-{failing:02}")).collect();
    futures::future::join_all(ids.iter().zip(1..).map(|(id, failing)| begin(id, failing))).await;
    for id in &ids {
        end(id).await;
    }
    hub.wait_until_empty().await;
    worker.stop().await;
    for (id, (writes, failing)) in plan.lock().unwrap().iter() {
        assert!(writes > failing, "{id}: write {failing} of {writes} was not refused");
    }
}

/// A child, its answer, three activities one after another.
#[tokio::test]
async fn a_parent_with_a_child_ends_as_it_should() {
    let expected =
        r#"{"before":"Hello parent before!","child":["Hello before!","healed <id>","Hello after!"],"after":"Hello parent after!"}"#;
    every_write_fails_once("ParentChild", None, expected, &["-child"]).await;
}

/// All results and answers are so large that each goes to a blob first.
#[tokio::test]
async fn large_values_end_up_where_they_should() {
    let text = durable_worker::samples::activities::make_big(&Default::default(), Some("70")).unwrap().unwrap();
    every_write_fails_once("Cascade", Some(r#"{"count":1,"child":"BigOutput","childInput":70}"#), &format!("[{text}]"), &["-0"]).await;
}

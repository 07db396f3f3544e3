//! The examples, run as a user runs them: against a storage emulator and the sample worker.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::{Command, Output};
use std::time::Duration;

use durable_bed::azurite::Azurite;
use durable_bed::guard::Process;
use durable_bed::{binaries, folder};
use durable_taskhub::artifacts::EngineLine;
use durable_taskhub::names::{HubName, InstanceId};
use durable_taskhub::partition::PartitionCount;
use durable_taskhub::start::StartRequest;
use durable_taskhub::storage::{Account, Options, Storage};
use durable_taskhub::{RuntimeStatus, TaskHub};

fn run(example: &str, arguments: &[&str]) -> Output {
    let storage = Azurite::of_process().unwrap().connection_string();
    Command::new(binaries::example(example).unwrap()).args(arguments).env("STORAGE", storage).output().unwrap()
}

fn output(example: &str, arguments: &[&str]) -> String {
    let output = run(example, arguments);
    assert!(output.status.success(), "{example}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_do_what_they_say() {
    const LIMIT: Duration = Duration::from_secs(60);
    let connection_string = Azurite::of_process().unwrap().connection_string();
    let storage = Storage::new(Account::from_connection_string(&connection_string).unwrap(), Options::default()).unwrap();
    let hub = TaskHub::create(storage, HubName::new("Examples").unwrap(), PartitionCount::DEFAULT, EngineLine::Line2).await.unwrap();
    let arguments = ["--connection-string-env", "STORAGE", "--task-hub-name", "Examples"];
    let environment = [("STORAGE", connection_string.as_str())];
    let _worker = Process::start("worker", &folder::new("worker").unwrap(), &binaries::worker().unwrap(), arguments, environment).unwrap();

    let said = output("start_and_wait", &["Examples", "Echo", "{\"a\": 1.0}"]);
    assert!(said.contains(" Completed: ") && said.contains("\"a\""), "{said}");
    let id = said.split(' ').next().unwrap();
    assert!(output("list_and_purge", &["Examples"]).contains(&format!("{id} Echo Completed")));

    let waiting = StartRequest { instance_id: InstanceId::new("approval").unwrap(), ..StartRequest::new("Approval") };
    hub.start(waiting).await.unwrap();
    while !hub.get("approval").await.unwrap().unwrap().has_started {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(output("control", &["Examples", "approval", "terminate", "not needed"]), "terminate: sent\n");
    assert_eq!(hub.wait_for("approval", LIMIT).await.unwrap().runtime_status, RuntimeStatus::Terminated);
    let refused = run("control", &["Examples", "approval", "suspend"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("Terminated"), "{refused:?}");

    assert!(output("list_and_purge", &["Examples", "--purge"]).contains("purged 1"));
    assert!(hub.get(id).await.unwrap().is_none());
    assert!(hub.get("approval").await.unwrap().is_some(), "only what has completed is purged");
}

//! A process that rewinds dies after each of its writes in turn; another one goes on, and the worker ends what it left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

use durable_bed::guard::Process;
use durable_taskhub::names::HubName;
use durable_taskhub::rewind::{RewindError, RewindRefusal};
use durable_taskhub::storage::{Account, Entity, ObservedRequest, Options, Query, RequestObserver, Storage, quote};
use durable_taskhub::{RuntimeStatus, TaskHub};

use crate::served::Served;
use crate::support::PATIENCE;

const TEST: &str = "rewind_killed::a_rewind_whose_process_dies_after_each_write_ends_as_if_it_had_lived";
/// Set in the process that is to die: connection string, hub, instance, and after how many writes.
const CHILD: &str = "DURABLE_TEST_REWIND";
/// What a shell makes of SIGABRT.
const ABORTED: i32 = 134;

/// Aborts the process, without any clean-up, once that many writes are done.
struct DiesAfter(AtomicI32);

impl RequestObserver for DiesAfter {
    fn observe(&self, request: &ObservedRequest) {
        let is_write = !matches!(request.operation, "table.get" | "table.query");
        if is_write && self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            std::process::abort();
        }
    }
}

async fn rewind_and_die(target: &str) {
    let [connection_string, hub, id, writes] = target.split('|').collect::<Vec<_>>()[..] else { panic!("{target}") };
    let observer = Arc::new(DiesAfter(AtomicI32::new(i32::MAX)));
    let options = Options { observer: Some(observer.clone()), ..Options::default() };
    let storage = Storage::new(Account::from_connection_string(connection_string).unwrap(), options).unwrap();
    let hub = TaskHub::connect(storage, HubName::new(hub).unwrap(), None).await.unwrap();
    observer.0.store(writes.parse().unwrap(), Ordering::Relaxed);
    hub.rewind(id, None).await.unwrap();
}

impl Served {
    /// The rewind in a process of its own; false if it was over before it was to die.
    fn rewind_dies(&self, id: &str, writes: usize) -> bool {
        let target = format!("{}|{}|{id}|{writes}", self.hub.connection_string, self.hub.name);
        let program = std::env::current_exe().unwrap();
        let name = format!("rewind-{id}");
        let mut child = Process::start(&name, &self.hub.folder, &program, ["--exact", TEST], [(CHILD, target.as_str())]).unwrap();
        let status = child.wait(PATIENCE).unwrap();
        assert!(status.success() || status.code() == Some(ABORTED), "{status}: {}", child.output());
        !status.success()
    }

    /// The rows of the current execution, without times and IDs of executions, and with `root` for the root's ID.
    async fn rows(&self, id: &str, root: &str) -> Vec<String> {
        let filter = Some(format!("PartitionKey eq {} and RowKey lt 'sentinel'", quote(id)));
        let page = self.hub.storage.table(&self.hub.name.history_table()).query(&Query { filter, ..Query::default() }).await.unwrap();
        let text = |row: &Entity| {
            let hidden = ["ExecutionId", "OrchestrationInstance", "ParentInstance", "ParentTraceContext", "_Timestamp"];
            let columns: BTreeMap<_, _> = row.columns.iter().filter(|(name, _)| !hidden.contains(&name.as_str())).collect();
            format!("{columns:?}").replace(root, "<root>")
        };
        page.entities.iter().map(text).collect()
    }
}

/// Without episodes' borders and the wake-ups of messages: a second message is harmless, and can bring an episode of its own (7.7).
fn without_wakes(rows: &[String]) -> Vec<&String> {
    let is_border = |row: &&String| ["OrchestratorStarted", "OrchestratorCompleted"].iter().any(|kind| row.contains(kind));
    let is_wake = |row: &&String| row.contains("GenericEvent") && !row.contains("Rewound: ");
    rows.iter().filter(|row| !is_border(row) && !is_wake(row)).collect()
}

/// 7.2 to 7.5, 7.12: like a crash of the operator; also through a sub-orchestration.
#[tokio::test]
async fn a_rewind_whose_process_dies_after_each_write_ends_as_if_it_had_lived() {
    if let Ok(target) = std::env::var(CHILD) {
        return rewind_and_die(&target).await;
    }
    let served = Served::new("dies").await;
    let worker = served.hub.worker();
    for (function, child, total) in [("Flaky", None, 3), ("ParentChild", Some("-child"), 5)] {
        let of_tree = |id: &str| [Some(id.to_owned()), child.map(|child| format!("{id}{child}"))].into_iter().flatten();
        let name = function.to_lowercase();
        // One that lives is what the others must come to.
        let lives = format!("{name}-lives");
        served.fails_then_heals(&lives, function).await;
        served.client.rewind(&lives, None).await.unwrap();
        for id in of_tree(&lives) {
            served.completed(&id, "healed").await;
        }
        served.hub.wait_until_empty().await;

        for writes in 1.. {
            let id = format!("{name}-{writes}");
            served.fails_then_heals(&id, function).await;
            if !served.rewind_dies(&id, writes) {
                assert_eq!(writes, total + 1, "{function}");
                break;
            }
            let begin = Instant::now();
            loop {
                match served.client.rewind(&id, None).await {
                    Ok(_) => break,
                    // The last write was the message, and the worker was faster.
                    Err(RewindError::Refused { refusal: RewindRefusal::NotFailed(RuntimeStatus::Completed), .. }) if writes == total => {
                        break;
                    }
                    Err(RewindError::Changed { .. }) if writes == total => assert!(begin.elapsed() < PATIENCE),
                    Err(other) => panic!("{id}: {other}"),
                }
            }
            for id in of_tree(&id) {
                served.completed(&id, "healed").await;
            }
            served.hub.wait_until_empty().await;
            for (dead, alive) in of_tree(&id).zip(of_tree(&lives)) {
                let (dead, alive) = (served.rows(&dead, &id).await, served.rows(&alive, &lives).await);
                if writes == total {
                    assert_eq!(without_wakes(&dead), without_wakes(&alive), "{id}");
                } else {
                    assert_eq!(dead, alive, "{id}");
                }
            }
        }
    }
    worker.stop().await;
}

//! Rewinds by the client that the worker takes up and ends, also after a cut at each write (rule 8).

use std::time::Instant;

use durable_bed::proxy::Fault;
use durable_taskhub::RuntimeStatus;
use durable_taskhub::rewind::{RewindError, RewindRefusal, Rewound};

use crate::served::Served;
use crate::support::PATIENCE;

impl Served {
    /// Fails, and would succeed from now on.
    pub async fn fails_then_heals(&self, id: &str, function: &str) {
        self.failed(id, function).await;
        self.heal(id);
    }

    async fn failed(&self, id: &str, function: &str) {
        self.start(id, function, None).await;
        self.hub.wait_for(id, &["Failed"], PATIENCE).await;
        self.hub.wait_until_empty().await;
    }

    /// From now on the activity succeeds.
    fn heal(&self, id: &str) {
        std::fs::write(self.hub.folder.join(id), "").unwrap();
    }

    pub async fn completed(&self, id: &str, middle: &str) {
        self.hub.wait_for(id, &["Completed"], PATIENCE).await;
        let output = self.output(id).await;
        assert!(output.contains(middle) && !output.contains("Failed"), "{output}");
    }
}

/// 7.1, 7.8: fails again, is rewound again; without healing the same failure.
#[tokio::test]
async fn a_failed_run_completes_once_it_is_healed() {
    let served = Served::new("rewound").await;
    let worker = served.hub.worker();
    served.failed("flaky-1", "Flaky").await;
    let done = served.client.rewind("flaky-1", Some("not healed")).await.unwrap();
    assert_eq!(done, Rewound::Done { rewritten: vec!["flaky-1".into()], messages: 1 });
    served.hub.wait_for("flaky-1", &["Failed"], PATIENCE).await;
    served.hub.wait_until_empty().await;
    served.heal("flaky-1");
    served.client.rewind("flaky-1", Some("healed")).await.unwrap();
    served.completed("flaky-1", "healed flaky-1").await;

    served.failed("once-1", "FailOnce").await;
    served.client.rewind("once-1", None).await.unwrap();
    served.completed("once-1", "second attempt once-1").await;
    worker.stop().await;
}

/// 7.2 to 7.5, 7.12: the answer to each write in turn is lost, with a worker that takes up at once what there is; the
/// same call again brings parent and child to their end.
#[tokio::test]
async fn a_rewind_cut_after_each_write_ends_as_it_should() {
    let served = Served::new("cut").await;
    let worker = served.hub.worker();
    for (function, child, total) in [("Flaky", None, 3), ("ParentChild", Some("-child"), 5)] {
        for writes in 1..=total {
            let id = format!("{}-{writes}", function.to_lowercase());
            served.failed(&id, function).await;
            served.heal(&id);
            let through = served.proxied().await;
            let mut left = writes;
            through.proxy.rule(move |request| {
                left -= i32::from(request.is_write());
                if request.is_write() && left == 0 { Fault::CutAfter } else { Fault::Pass }
            });
            through.client.rewind(&id, None).await.unwrap_err();
            let begin = Instant::now();
            // Until nothing is left to do; a worker may have ended it meanwhile.
            loop {
                match served.client.rewind(&id, None).await {
                    Ok(_) => break,
                    Err(RewindError::Refused { refusal: RewindRefusal::NotFailed(RuntimeStatus::Completed), .. }) => break,
                    Err(RewindError::Changed { .. }) => assert!(begin.elapsed() < PATIENCE),
                    Err(other) => panic!("{id}: {other}"),
                }
            }
            served.completed(&id, "healed").await;
            if let Some(child) = child {
                served.completed(&format!("{id}{child}"), "healed").await;
            }
        }
    }
    served.hub.wait_until_empty().await;
    worker.stop().await;
}

/// 7.13 to 7.15: the child was rewound alone and has finished; its result is sent to the parent, which .NET would leave
/// Pending for ever.
#[tokio::test]
async fn a_parent_gets_the_result_of_a_child_that_was_rewound_alone() {
    let served = Served::new("alone").await;
    let worker = served.hub.worker();
    served.failed("parent", "ParentChild").await;
    served.heal("parent");
    served.client.rewind("parent-child", None).await.unwrap();
    served.completed("parent-child", "healed parent").await;
    served.hub.wait_until_empty().await;
    assert_eq!(served.get("parent").await.runtime_status, RuntimeStatus::Failed);
    let done = served.client.rewind("parent", None).await.unwrap();
    assert_eq!(done, Rewound::Done { rewritten: vec!["parent".into()], messages: 1 });
    served.completed("parent", "healed parent").await;
    worker.stop().await;
}

/// 7.9, 7.18, 7.19: an orchestrator that throws by itself throws again; what did not fail is refused and left as it is.
#[tokio::test]
async fn what_did_not_fail_is_refused_and_an_own_failure_repeats() {
    let served = Served::new("unfit").await;
    let (worker, through) = (served.hub.worker(), served.proxied().await);
    served.failed("fail-1", "Fail").await;
    served.client.rewind("fail-1", None).await.unwrap();
    served.hub.wait_until_empty().await;
    served.hub.wait_for("fail-1", &["Failed"], PATIENCE).await;

    served.start("completed", "Echo", None).await;
    for id in ["running", "terminated"] {
        served.start(id, "Approval", None).await;
        served.hub.wait_for(id, &["Running"], PATIENCE).await;
    }
    served.client.terminate("terminated", None).await.unwrap();
    for (id, status) in
        [("completed", RuntimeStatus::Completed), ("running", RuntimeStatus::Running), ("terminated", RuntimeStatus::Terminated)]
    {
        let before = served.hub.wait_for(id, &[status.name()], PATIENCE).await;
        match through.client.rewind(id, None).await {
            Err(RewindError::Refused { refusal: RewindRefusal::NotFailed(found), .. }) => assert_eq!(found, status),
            other => panic!("{id}: {other:?}"),
        }
        assert!(through.has_only_read());
        assert_eq!(served.hub.instance(id).await.unwrap().columns, before.columns);
    }
    worker.stop().await;
}

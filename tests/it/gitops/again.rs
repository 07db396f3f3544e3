//! The same manifests, applied for ever, start nothing a second time: by kubectl, by Argo CD's and by Flux's way of applying.
//!
//! What ran is told by the hub's own tables, whole: after everything has settled, not one row may change.

use std::collections::BTreeMap;
use std::time::Duration;

use durable_bed::guard::Signal;
use durable_taskhub::storage::Query;
use serde_json::{Value, json};

use super::{manifest, ready};
use crate::support::runs::Runs;
use crate::support::{World, eventually};

/// How often a set is applied in each phase of the test.
const TIMES: usize = 10;

/// Who applies a set.
#[derive(Clone, Copy, PartialEq)]
enum Tool {
    /// `kubectl apply`, as a person or a pipeline does.
    Kubectl,
    /// Argo CD with `ServerSideApply=true`.
    ArgoCd,
    /// Flux' kustomize-controller.
    Flux,
}

const TOOLS: [Tool; 3] = [Tool::Kubectl, Tool::ArgoCd, Tool::Flux];

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Kubectl => "kubectl",
            Tool::ArgoCd => "argocd",
            Tool::Flux => "flux",
        }
    }

    /// The tool's marks on an object.
    fn mark(self, world: &World, object: &mut Value) {
        let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
        let tracking = format!("shop:durable-operator.dev/{kind}:{}/{name}", world.namespace);
        match self {
            Tool::Kubectl => {}
            Tool::ArgoCd => object["metadata"]["annotations"] = json!({"argocd.argoproj.io/tracking-id": tracking}),
            Tool::Flux => {
                object["metadata"]["labels"] =
                    json!({"kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"});
            }
        }
    }

    fn apply(self, world: &World, set: &Value) {
        let how = match self {
            Tool::Kubectl => &[][..],
            Tool::ArgoCd => &["--server-side", "--force-conflicts", "--field-manager=argocd-controller"],
            Tool::Flux => &["--server-side", "--force-conflicts", "--field-manager=kustomize-controller"],
        };
        let arguments = [&["apply", "--namespace", &world.namespace, "--filename=-"], how].concat();
        let answer = world.control_plane.with(|plane| plane.kubectl_with_input(&arguments, &set.to_string())).unwrap();
        assert!(answer.success, "{}: {answer:?}", self.name());
    }

    /// What this tool applies: a TaskHub, Orchestrations of each `startPolicy`, one that is rewound with this token, and an event.
    fn set(self, world: &World, rewind_token: Option<&str>) -> Value {
        let tool = self.name();
        let named = |name: &str| format!("{tool}-{name}");
        let connection = json!({"connectionStringSecretRef": {"name": "storage", "key": "connectionString"}});
        let polling = json!({"minInterval": "200ms", "maxInterval": "500ms"});
        let run = |name: &str, function: &str, more: Value| {
            let mut spec = json!({"taskHubRef": {"name": tool}, "functionName": function, "ttlSecondsAfterFinished": 3600});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            manifest("Orchestration", &named(name), spec)
        };
        let rewound = match rewind_token {
            Some(token) => json!({"instanceId": named("rewound"), "desiredState": "Rewound", "rewindToken": token}),
            None => json!({"instanceId": named("rewound")}),
        };
        let event = json!({"orchestrationRef": {"name": named("approval")}, "name": "Approval", "payload": {"value": true}});
        let mut items = [
            manifest("TaskHub", tool, json!({"hubName": world.hub_name.as_str(), "connection": connection, "polling": polling})),
            run("create", "HelloSequence", json!({})),
            run("create-id", "HelloSequence", json!({"instanceId": named("create-id")})),
            run(
                "adopts",
                "HelloSequence",
                json!({"startPolicy": "CreateOrAdopt", "instanceId": named("adopts"), "input": {"value": {"a": 1.0}}}),
            ),
            run("app", "HelloSequence", json!({"startPolicy": "Adopt", "instanceId": named("app")})),
            run("approval", "Approval", json!({"instanceId": named("approval")})),
            run("rewound", "Flaky", rewound),
            manifest("OrchestrationEvent", &named("approve"), event),
        ];
        items.iter_mut().for_each(|item| self.mark(world, item));
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }
}

impl World {
    fn apply_all_again(&self, rewind_token: Option<&str>) {
        for _ in 0..TIMES {
            for tool in TOOLS {
                tool.apply(self, &tool.set(self, rewind_token));
            }
        }
    }

    async fn all_say(&self, kind: &str, name: &str, reason: &str) {
        for tool in TOOLS {
            self.object_says(kind, &format!("{}-{name}", tool.name()), reason).await;
        }
    }

    /// Every row of the hub, in whatever words the hub has them.
    async fn rows_of_the_hub(&self) -> String {
        let mut all = String::new();
        for table in [self.hub_name.instances_table(), self.hub_name.history_table()] {
            let mut rows: Vec<String> = self
                .storage()
                .table(&table)
                .query(&Query::default())
                .await
                .unwrap()
                .entities
                .iter()
                .map(|row| format!("{row:?}"))
                .collect();
            rows.sort();
            all += &rows.join("\n");
        }
        all
    }

    /// UID and resource version of every Orchestration and event, by kind and name; and of the TaskHubs, whose counts are news, the UID.
    fn versions(&self) -> BTreeMap<String, String> {
        let kinds = "orchestrations.durable-operator.dev,orchestrationevents.durable-operator.dev,taskhubs.durable-operator.dev";
        let list: Value = serde_json::from_str(&self.kubectl(&["get", kinds, "--output=json"])).unwrap();
        let version = |object: &Value| {
            let metadata = &object["metadata"];
            match object["kind"].as_str() {
                Some("TaskHub") => metadata["uid"].to_string(),
                _ => format!("{} {}", metadata["uid"], metadata["resourceVersion"]),
            }
        };
        let items = list["items"].as_array().unwrap();
        items.iter().map(|object| (format!("{}/{}", object["kind"], object["metadata"]["name"]), version(object))).collect()
    }
}

/// The instance was started once, and did what its function does once.
fn ran_once(runs: &Runs, id: &str, activities: usize, events: usize) {
    let history = runs.history(id);
    let count = |event: &str| history.get(event).copied().unwrap_or_default();
    let found = [count("ExecutionStarted"), count("ExecutionCompleted"), count("TaskScheduled"), count("EventRaised")];
    assert_eq!(found, [1, 1, activities, events], "{id}: {history:?}");
    assert_eq!(runs.executions(id).len(), 1, "{id}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_manifests_applied_for_ever_start_nothing_twice() {
    let world = World::new("gitops_again").await;
    let _worker = world.worker().await;
    let mut operator = world.operator().await;
    world.secret(&world.connection_string());
    for tool in TOOLS {
        world.started_by_another(&format!("{}-app", tool.name()), "HelloSequence").await;
    }

    // While all of it is under way.
    world.apply_all_again(None);
    for name in ["create", "create-id", "adopts", "app", "approval"] {
        world.all_say("Orchestration", name, "Completed").await;
    }
    world.all_say("OrchestrationEvent", "approve", "Sent").await;
    world.all_say("Orchestration", "rewound", "OrchestrationFailed").await;

    // A rewind token, again and again: one rewind, after which the run fails anew.
    world.apply_all_again(Some("2026-11-25"));
    for tool in TOOLS {
        eventually(&format!("{} has rewound once", tool.name()), async || {
            let object = world.object("Orchestration", &format!("{}-rewound", tool.name()));
            let is_over = object["status"]["lastRewind"]["result"] == "Succeeded"
                && ready(&object) == "OrchestrationFailed"
                && object["metadata"]["finalizers"].is_null();
            if is_over { Ok(()) } else { Err(object["status"].to_string()) }
        })
        .await;
    }
    let runs = Runs::at_rest(&world).await;
    let (rows, versions) = (world.rows_of_the_hub().await, world.versions());
    assert_eq!(versions.len(), 24, "{versions:?}");

    // When all is settled; and once more after a restart of the operator.
    world.apply_all_again(Some("2026-11-25"));
    operator.process.signal(Signal::Term);
    operator.process.wait(Duration::from_secs(20)).unwrap();
    let _operator = world.operator().await;
    world.apply_all_again(Some("2026-11-25"));
    // Whatever was to come of it has come when an object applied last has ended.
    world.apply(&manifest("Orchestration", "last", json!({"taskHubRef": {"name": "kubectl"}, "functionName": "Echo"})));
    world.object_says("Orchestration", "last", "Completed").await;
    let last = world.object("Orchestration", "last")["status"]["instanceId"].as_str().unwrap().to_owned();
    world.kubectl(&["delete", "orchestration", "last"]);
    assert!(world.hub().await.purge(&last, false).await.is_ok());
    assert_eq!(world.versions(), versions, "an object was written though nothing was new");
    assert_eq!(world.rows_of_the_hub().await, rows, "the hub has changed");
    for tool in TOOLS {
        let name = |name: &str| format!("{}-{name}", tool.name());
        let derived = world.object("Orchestration", &name("create"))["status"]["instanceId"].as_str().unwrap().to_owned();
        for id in [derived, name("create-id"), name("adopts"), name("app")] {
            ran_once(&runs, &id, 3, 0);
        }
        ran_once(&runs, &name("approval"), 0, 1);
    }
    assert_eq!(runs.instances().len(), 3 * 6);
}

/// Pruned and applied again, or restored into a new cluster: the object is another one, and the run need not be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_are_deleted_and_applied_again_find_their_runs() {
    let world = World::new("gitops_recreated").await;
    let _worker = world.worker().await;
    let _operator = world.operator().await;
    world.secret(&world.connection_string());
    for tool in TOOLS {
        world.started_by_another(&format!("{}-app", tool.name()), "HelloSequence").await;
        tool.apply(&world, &tool.set(&world, None));
    }
    for name in ["create", "create-id", "adopts", "app", "approval"] {
        world.all_say("Orchestration", name, "Completed").await;
    }
    world.all_say("OrchestrationEvent", "approve", "Sent").await;
    let first: Vec<String> = TOOLS
        .iter()
        .map(|tool| world.object("Orchestration", &format!("{}-create", tool.name()))["status"]["instanceId"].to_string())
        .collect();
    for round in 0..2 {
        world.kubectl(&[
            "delete",
            "orchestrations.durable-operator.dev,orchestrationevents.durable-operator.dev",
            "--all",
            "--timeout=60s",
        ]);
        for _ in 0..TIMES {
            for tool in TOOLS {
                tool.apply(&world, &tool.set(&world, None));
            }
        }
        for name in ["adopts", "app"] {
            world.all_say("Orchestration", name, "Completed").await;
        }
        // With an ID of its own and the default policy the run is not repeated either, but it is nobody's.
        for name in ["create-id", "approval", "rewound"] {
            world.all_say("Orchestration", name, "Conflict").await;
        }
        // Without one the new object is a new run, as with a Job: that is the contract of `Create`.
        world.all_say("Orchestration", "create", "Completed").await;
        let runs = Runs::at_rest(&world).await;
        assert_eq!(runs.instances().len(), 3 * 6 + 3 * (round + 1));
        for (tool, first) in TOOLS.iter().zip(&first) {
            let name = |name: &str| format!("{}-{name}", tool.name());
            let again = world.object("Orchestration", &name("create"))["status"]["instanceId"].to_string();
            assert_ne!(again, *first);
            for id in [again.trim_matches('"'), first.trim_matches('"'), &name("create-id"), &name("adopts"), &name("app")] {
                ran_once(&runs, id, 3, 0);
            }
            ran_once(&runs, &name("approval"), 0, 1);
        }
    }
}
